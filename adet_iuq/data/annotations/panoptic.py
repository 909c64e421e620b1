"""COCO-format panoptic data sets: their records, and COCO itself under Mask2Former's names.

A panoptic data set is a JSON file, with `segments_info` per image, and a folder of PNG files whose colours are segment
ids (R + 256 G + 65536 B; 0: nothing). Things come before stuff in the contiguous class numbers, as in COCO.
"""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import DatasetCatalog, MetadataCatalog

from adet_iuq.data.annotations.parsing import read_coco_json
from adet_iuq.errors import UserError


def panoptic_metadata(categories: list[dict[str, Any]]) -> dict[str, Any]:
    """detectron2's metadata for `categories` (with `id`, `name`, `isthing`): consecutive numbers, things first.

    `thing_classes` names things only, and `stuff_classes` names all classes, as Mask2Former registers COCO.
    """
    things = [c for c in categories if c["isthing"]]
    ordered = things + [c for c in categories if not c["isthing"]]
    numbers = {c["id"]: number for number, c in enumerate(ordered)}
    return {
        "thing_classes": [c["name"] for c in things],
        "stuff_classes": [c["name"] for c in ordered],
        "thing_dataset_id_to_contiguous_id": {c["id"]: numbers[c["id"]] for c in things},
        "stuff_dataset_id_to_contiguous_id": {c["id"]: numbers[c["id"]] for c in ordered[len(things) :]},
    }


def load_panoptic_records(json_file: str, image_root: str, panoptic_root: str) -> list[dict[str, Any]]:
    """One record per image: file, size, `pan_seg_file_name`, `segments_info` with consecutive `category_id` and `isthing`.

    Raises:
        UserError: the file does not parse, or an annotation's image or category is unknown.
    """
    content = read_coco_json(json_file)
    metadata = panoptic_metadata(content["categories"])
    things, stuff = (metadata[f"{kind}_dataset_id_to_contiguous_id"] for kind in ("thing", "stuff"))
    images = {image["id"]: image for image in content["images"]}
    records = []
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        unknown = {s["category_id"] for s in annotation["segments_info"]} - things.keys() - stuff.keys()
        if image is None or unknown:
            what = f"categories {sorted(unknown)}" if unknown else f"image {annotation['image_id']}"
            raise UserError(f"{json_file}: the entry of {annotation['file_name']} names {what}, which the file lacks.")
        segments = [
            {**s, "category_id": (things | stuff)[s["category_id"]], "isthing": s["category_id"] in things}
            for s in annotation["segments_info"]
        ]
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
                "segments_info": segments,
            }
        )
    return records


def add_sizes(records: list[dict[str, Any]], json_file: str) -> None:
    """Gives detectron2's panoptic records, which lack them, the `height` and `width` of their images."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in read_coco_json(json_file)["images"]}
    for record in records:
        record["height"], record["width"] = sizes[record["image_id"]]


def register_coco_panoptic() -> None:
    """Registers COCO's panoptic sets under Mask2Former's names; detectron2's own names come with detectron2.

    The names end in `_with_sem_seg`. PQ, mIoU and mask AP are measured, the first two from the panoptic maps.
    """
    for split in ("train", "val"):
        stock, name = f"coco_2017_{split}_panoptic", f"coco_2017_{split}_panoptic_with_sem_seg"
        if name in DatasetCatalog:
            continue
        metadata = MetadataCatalog.get(stock)
        numbers = metadata.thing_dataset_id_to_contiguous_id
        DatasetCatalog.register(name, lambda stock=stock: DatasetCatalog.get(stock))
        copied = {key: value for key, value in metadata.as_dict().items() if key not in ("name", "thing_classes")}
        # detectron2 also lists stuff among the things, which its instance evaluator does not accept.
        MetadataCatalog.get(name).set(thing_classes=metadata.thing_classes[: len(numbers)], **copied)


def segment_ids(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(H, W) ids R + 256 G + 65536 B of an (H, W, 3) RGB panoptic map."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red | green << 8 | blue << 16


def id_colours(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of segment ids (H, W): the inverse of `segment_ids`."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
