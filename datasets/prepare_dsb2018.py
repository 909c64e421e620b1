"""Makes the data set "nuclei" in COCO's format from the training images of the 2018 Data Science Bowl, stage 1.

    curl -O https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip
    python datasets/prepare_dsb2018.py --source stage1_train.zip      # or its unpacked folder; writes $ADET_IUQ_DATA/nuclei

The source (BBBC038v1, CC0) has ID/images/ID.png and one file ID/masks/*.png a nucleus. 210 images of 256 x 256 pixels
are taken, 160 for train and 50 for val, as datasets/checksums/nuclei.json lists them by the first 16 digits of their ID.

Tested on a made-up source. The real file has not been tested; the checksums at the end judge it. The
order of an image's nuclei, which the source does not give, is that of the names of its mask files.
"""

import sys
from pathlib import Path
from typing import Any

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from preparation import SPLITS, known_checksums, prepare, write_coco

from adet_iuq.errors import UserError

ID_DIGITS = 16
HOW_TO_GET = """\
    curl -O https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip
        (or the same file of https://www.kaggle.com/c/data-science-bowl-2018/data)
    python datasets/prepare_dsb2018.py --source stage1_train.zip"""


def find_images(source: Path, file_names: list[str]) -> list[Path]:
    """The folder of each image, wherever below `source` it lies.

    Raises:
        UserError: some images are missing.
    """
    folders = {path.parent.name[:ID_DIGITS]: path.parent for path in source.rglob("images") if path.is_dir()}
    missing = [name for name in file_names if Path(name).stem not in folders]
    if missing:
        raise UserError(
            f"{source} lacks {len(missing)} of {len(file_names)} images, such as {Path(missing[0]).stem}*/."
        )
    return [folders[Path(name).stem] for name in file_names]


def read_nuclei(folder: Path) -> list[dict[str, Any]]:
    """Area, box and segmentation of every nucleus of an image, by the names of the mask files, without empty masks."""
    nuclei = []
    for path in sorted((folder / "masks").glob("*.png")):
        mask = np.asfortranarray(np.asarray(Image.open(path).convert("L")) > 0, dtype=np.uint8)
        if not mask.any():
            continue
        rle = mask_util.encode(mask)
        segmentation = {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
        nuclei.append({"area": float(mask.sum()), "bbox": mask_util.toBbox(rle).tolist(), "segmentation": segmentation})
    return nuclei


def write_split(source: Path, output: Path, split: str, file_names: list[str]) -> None:
    """Writes the images, as RGB, and the JSON file of one split."""
    folders = find_images(source, file_names)
    (output / split).mkdir(parents=True, exist_ok=True)

    def picture(folder: Path, file_name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        image = Image.open(folder / "images" / f"{folder.name}.png").convert("RGB")
        image.save(output / split / file_name)
        return {"file_name": file_name, "height": image.height, "width": image.width}, read_nuclei(folder)

    write_coco(
        output,
        split,
        map(picture, folders, file_names),
        description="2018 Data Science Bowl stage 1 nuclei (BBBC038v1, CC0), 256x256 images",
        licenses=[],
        category="nucleus",
    )


def write(source: Path, output: Path) -> None:
    """Converts the listed images below `source` to `output`."""
    listed = known_checksums("nuclei")
    for split in SPLITS:
        write_split(source, output, split, list(listed[split]["images"]))


def main(arguments: list[str] | None = None) -> int:
    """Reads the arguments and makes the data set; returns the exit code."""
    return prepare("nuclei", str(__doc__), HOW_TO_GET, write, arguments)


if __name__ == "__main__":
    sys.exit(main())
