"""Judges the list `images` of a COCO-format file: ids, names and sizes."""

import os
from collections.abc import Callable, Collection
from typing import Any

from adet_iuq.data.annotations.numbers import IdTable, is_id, is_rounded, sortable_together, sorted_ids, whole_positive
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.images.facts import ImageFacts
from adet_iuq.errors import UserError

Entry = dict[str, Any]
FactsOf = Callable[[str], ImageFacts]  # reads the facts of an image file


def relative_path(entry: Entry) -> str:
    """The path of an image below its root: `file_name`, or LVIS's split folder and name."""
    if "file_name" in entry:
        return str(entry["file_name"])
    return "/".join(str(entry["coco_url"]).split("/")[-2:])


def sanitize_images(
    entries: list[Entry], facts_of: FactsOf, report: Report, swapped: Collection[Any] = ()
) -> tuple[list[Entry], IdTable]:
    """The usable entries, each with a unique id and with `height` and `width` as whole numbers.

    Args:
        entries: the list `images`.
        facts_of: the function that reads the facts of an image file, as for `sanitize`.
        report: collects the findings.
        swapped: the ids of images whose width and height are to be swapped.

    Returns:
        The entries in their order; and the entries by id, for annotations to refer to, with None for an id that two
        images share and for an image without a size.
    """
    report.images = len(entries)
    table = IdTable()
    for entry in entries:
        if is_rounded(entry.get("id")):
            advice = "Such numbers cannot be told apart. Give the images new ids, or write the ids as words, in quotes."
            report.add("image id beyond 64 bits", str(entry)[:100], advice, fatal=True)
            continue
        if not is_id(entry.get("id")) or not has_name(entry):
            advice = "It is left out; give every image an 'id' (a number or a word) and a 'file_name'."
            report.add("incomplete image entry", str(entry)[:100], advice)
            continue
        identity = entry["id"]
        if identity not in table:
            table[identity] = entry
        elif table[identity] is None or relative_path(table[identity]) != relative_path(entry):
            _report_shared(identity, table[identity], entry, report)
            table[identity] = None
        else:
            example = f"id {identity}: {relative_path(entry)}"
            report.add("duplicate image id", example, "The same image is listed again; only the first entry is used.")
    for identity, entry in table.items():
        if entry is not None:
            table[identity] = _sized(entry, facts_of, report)
    for identity in swapped:
        entry = table[identity]
        table[identity] = {**entry, "height": entry["width"], "width": entry["height"]}
        path = os.path.join(report.image_root, relative_path(entry))
        report_swapped(path, (entry["width"], entry["height"]), report)
    if not sortable_together(table):
        advice = (
            "Some are words and some numbers, or some are numbers beyond 2^53. COCO's evaluation loses annotations of such "
            "images; ours uses a copy with new ids."
        )
        example = " and ".join(f"id {identity!r}" for identity in _extremes(table))
        report.add("image ids that do not sort together", example, advice)
    if not table:
        report.add("no images", report.json_file, "The list 'images' has no complete entry.", fatal=True)
    return [entry for entry in table.values() if entry is not None], table


def _extremes(ids: Collection[Any]) -> tuple[Any, Any]:
    """The first and the last id in the order of `sorted_ids`; in a mixture these are a number and a word."""
    ordered = sorted_ids(ids)
    return ordered[0], ordered[-1]


def has_name(entry: Entry) -> bool:
    """Whether an entry has the keys from which `relative_path` finds its image."""
    name = entry.get("file_name", entry.get("coco_url"))
    return isinstance(name, str | int) and str(name).strip() != ""


def _report_shared(identity: Any, first: Entry | None, second: Entry, report: Report) -> None:
    advice = (
        "It is unclear which image the annotations belong to, so none of them can be used. Give each image "
        "an id of its own, and each annotation its image's id."
    )
    before = relative_path(first) if first else "others"
    example = f"id {identity}: {before} and {relative_path(second)}"
    report.add("two images with one id", example, advice, fatal=True)


def report_swapped(path: str, size: tuple[int, int], report: Report) -> None:
    """Adds an image of a size (height, width) in pixels whose entry swaps the two."""
    height, width = size
    report.add(
        "sides swapped",
        f"{path} is {width} x {height}, its entry says {height} x {width}",
        "Their annotations fit into them as they are, and so they are used; correct width and height.",
    )


def _is_side(value: Any) -> bool:
    """Whether a value is a side that can stay as it is."""
    return type(value) is int and whole_positive(value) is not None


def _sized(entry: Entry, facts_of: FactsOf, report: Report) -> Entry | None:
    """The entry with its size in whole numbers, from the file if it has none; None if the file has none either."""
    height, width = entry.get("height"), entry.get("width")
    if _is_side(height) and _is_side(width):
        return entry
    sides = whole_positive(height), whole_positive(width)
    where = f"{relative_path(entry)} (image id {entry['id']})"
    if sides[0] is not None and sides[1] is not None:
        if isinstance(height, str) or isinstance(width, str):
            report.add("image size in words", f"{where}: {width!r} x {height!r}", "The numbers are read.")
        return {**entry, "height": sides[0], "width": sides[1]}
    example = f"{where}: width {width!r}, height {height!r}"
    try:
        sides = facts_of(os.path.join(report.image_root, relative_path(entry))).upright_size
    except UserError as error:
        advice = "Its file does not say it either. Put the file in its place, or give the entry 'width' and 'height'."
        report.add("image without a size", f"{example}; {error}", advice, fatal=True)
        return None
    report.add(
        "image size not in the file", example, "It is taken from the image; write it as whole numbers of pixels."
    )
    return {**entry, "height": sides[0], "width": sides[1]}
