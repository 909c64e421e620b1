"""The report of a run: one page that opens in any browser, without network (docs/report.md).

    build           from the files of a run to report.html
    matching        which detection found which object, with pycocotools
    scores          precision, recall, F1; how well each image did
    confusion       what objects of each class were taken for
    history         the numbers of metrics.json
    figures, tables, pictures, page         how all of it looks
    label_grid      training images as the network sees them
    hook, process   beside a training

    adet-iuq report RUN_FOLDER

Importing the package itself imports none of them.
"""
