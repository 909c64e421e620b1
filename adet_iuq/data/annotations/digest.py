"""What training and evaluation need from a COCO-format file, made in one pass and small enough to keep in memory.

The annotations of each image are one JSON text, and all these texts stand one after the other in one array of bytes.
The array may lie in a file; then all processes that read it, data workers among them, share the same memory.
"""

import itertools
import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adet_iuq.data.annotations.category_entries import class_numbers
from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.data.annotations.numbers import sorted_ids
from adet_iuq.data.annotations.parsing import no_garbage_collection, outline_coco_json, read_coco_json
from adet_iuq.data.annotations.record_text import encode, joined
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.sanitize import Content, Judged, collect
from adet_iuq.data.cache import file_identity, folders_unchanged
from adet_iuq.data.images.facts import ImageFacts, image_facts

# Path below the image root, height and width in pixels, id.
ListedImage = tuple[str, int, int, Any]
Identity = tuple[str, int, int] | None  # identity of a file; None if there is no such file


@dataclass
class Digest:
    """The digest of a file with N images.

    Attributes:
        report: the findings of the annotation pass.
        class_names: the names of the classes in the order of their ids.
        class_numbers: the class number of each category id.
        is_lvis: whether the file holds what LVIS's metrics need: how frequent each class is, and for each image which
            classes are absent and which are not annotated in full.
        is_annotated: whether the file has the list `annotations`.
        images: the N images, sorted by id.
        objects: (N,) the number of annotations that are no crowds.
        ends: (N,) the position in the array of bytes where the annotations of each image end.
        measured: the images whose size the pass took from their files, with the `file_identity` of these files then.
    """

    report: Report
    class_names: list[str]
    class_numbers: dict[Any, int]
    is_lvis: bool
    is_annotated: bool
    images: list[ListedImage]
    objects: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    measured: dict[str, Identity]

    @property
    def size(self) -> int:
        """The number of bytes of all annotations."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def is_fresh(self) -> bool:
        """Whether the images that were measured are still the same, and none was added or removed. The JSON file itself is
        not checked."""
        return folders_unchanged(self.report.folders) and all(
            image_identity(path) == identity for path, identity in self.measured.items()
        )


def image_identity(path: str) -> Identity:
    """The `file_identity` of an image; None if there is no such file."""
    try:
        return file_identity(path)
    except (OSError, ValueError):  # ValueError: the name has a null character
        return None


def make_digest(json_file: str, image_root: str, stock: bool, write: Callable[[bytes], object]) -> Digest:
    """Reads and judges a file.

    Args:
        json_file: the path of the file, as for `sanitize`.
        image_root: the folder of its images, as for `sanitize`.
        stock: whether it is one of detectron2's own data sets, as for `sanitize`.
        write: the function that gets the annotations of one image after the other.

    Raises:
        UserError: `read_coco_json` refuses the file.
    """
    with no_garbage_collection():
        try:
            return _digest(outline_coco_json(json_file), json_file, image_root, stock, write)
        except json.JSONDecodeError:  # nothing is written yet; the plain parser accepts more, and explains more
            return _digest(read_coco_json(json_file), json_file, image_root, stock, write)


def _digest(content: Content, json_file: str, image_root: str, stock: bool, write: Callable[[bytes], object]) -> Digest:
    measured: dict[str, Identity] = {}

    def facts_of(path: str) -> ImageFacts:
        measured[path] = image_identity(path)
        return image_facts(path)

    judged, found = collect(content, facts_of, _Texts.of, json_file=json_file, image_root=image_root, stock=stock)
    names, numbers = class_numbers(judged.categories or [])
    by_id = {image["id"]: image for image in judged.images}
    ids = sorted_ids(by_id)
    owner = np.array(found.owners, dtype=np.int64)
    counts = np.bincount(owner, minlength=len(ids))
    order = iter(np.argsort(owner, kind="stable").tolist())
    lengths = np.zeros(len(ids), dtype=np.int64)
    for place, count in enumerate(counts.tolist()):
        text = joined(found.texts[found.ends[one] : found.ends[one + 1]] for one in itertools.islice(order, count))
        lengths[place] = len(text)
        write(text)
    return Digest(
        report=judged.report,
        class_names=names,
        class_numbers=numbers,
        is_lvis=_is_lvis(judged),
        is_annotated=judged.annotations is not None,
        images=[(relative_path(by_id[i]), by_id[i]["height"], by_id[i]["width"], i) for i in ids],
        objects=counts - np.bincount(owner, np.array(found.crowds), minlength=len(ids)).astype(np.int64),
        ends=np.cumsum(lengths),
        measured=measured,
    )


@dataclass
class _Texts:
    """The annotations in the order of their file.

    Attributes:
        texts: all annotations in one array, because thousands of small objects would fragment the memory of the parser.
        ends: the positions where each begins and ends.
        owners: the positions of their images among the sorted ids.
        crowds: whether each is a crowd.
    """

    texts: bytearray
    ends: "array[int]"
    owners: "array[int]"
    crowds: "array[int]"

    @classmethod
    def of(cls, judged: Judged) -> "_Texts":
        """Collects all annotations of a pass."""
        _, numbers = class_numbers(judged.categories or [])
        places = {identity: place for place, identity in enumerate(sorted_ids(image["id"] for image in judged.images))}
        found = cls(bytearray(), array("q", [0]), array("q"), array("b"))
        for annotation in itertools.chain.from_iterable(judged.annotations or ()):
            found.texts += encode(annotation, numbers)
            found.ends.append(len(found.texts))
            found.owners.append(places[annotation["image_id"]])
            found.crowds.append(annotation["iscrowd"])
        return found


def _is_lvis(judged: Judged) -> bool:
    return (
        bool(judged.categories and judged.images)
        and all(category.get("frequency") in ("r", "c", "f") for category in judged.categories or ())
        and all("neg_category_ids" in image and "not_exhaustive_category_ids" in image for image in judged.images)
    )
