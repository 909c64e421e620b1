"""The report of a run: one page that opens in any browser, without network (docs/report.md).

    build           makes report.html from the files of a run
    matching        finds out with pycocotools which detection found which object
    scores          precision, recall, F1, and how well each image did
    confusion       which classes were mistaken for which
    history         the numbers of metrics.json
    figures, tables, pictures, page         how all of it looks
    label_grid      training images as the network sees them
    hook, process   write the report beside a training

    adet-iuq report RUN_FOLDER

Importing the package itself imports none of them.
"""
