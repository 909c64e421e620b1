"""Judges the list `annotations` of a COCO-format file: images, categories, ids, flags and outlines."""

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from adet_iuq.data.annotations.category_entries import category_name
from adet_iuq.data.annotations.geometry import Draft, settle_geometry, where
from adet_iuq.data.annotations.numbers import EXACT, IdTable, number
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.segmentation import is_valid_part, read_parts, rle_problem
from adet_iuq.data.annotations.sides import Sides

Entry = dict[str, Any]

_CHUNK = 8192  # number of annotations that are measured at once
_WANTED = "[[x1, y1, x2, y2, x3, y3, ...], ...], or a run-length mask {'size': [height, width], 'counts': ...}"
_NO = ("", "0", "false", "no", "none")
_YES = ("1", "true", "yes")


def sanitize_annotations(
    entries: Sequence[Entry], images: IdTable, categories: IdTable, report: Report, sides: Sides, stock: bool
) -> Iterator[list[Entry]]:
    """The annotations that can be used, in their order, some thousand at a time.

    Each has an image and a category of the file, under exactly the ids that these have; `iscrowd` 0 or 1; a
    segmentation of valid polygon parts, or a compressed RLE that covers at least a pixel; a `bbox` with an area; an
    `area` near the mask's; and the file's own `id`. When all are through, `report.ids_serve` says whether an evaluator
    can use these ids.

    Args:
        entries: the list `annotations`, which may parse its entries one by one.
        images: the images by id, as `sanitize_images` returns them.
        categories: the categories by id, as `sanitize_categories` returns them.
        report: collects the findings.
        sides: collects what annotations show about the sides of their images.
        stock: whether a segmentation without a valid part is only a warning.
    """
    report.annotations = len(entries)
    judge = _Judge(entries, images, categories, report, sides, stock)
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        drafts = [draft for draft in judge.drafts(start, chunk) if draft is not None]
        kept = [draft.entry() for draft in settle_geometry(drafts, report, sides)]
        report.mended |= not are_same(chunk, kept)
        yield kept
    if entries:
        judge.report_unused_categories()


def are_same(before: Sequence[Entry], after: Sequence[Entry]) -> bool:
    """Whether both sequences hold the same objects."""
    return len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))


def unknown_category_text(json_file: str, annotation: Entry) -> str:
    """The message for an annotation whose category the file does not define."""
    return (
        f"{json_file}: annotation {annotation.get('id')} has category_id {annotation.get('category_id')!r}, which is "
        "not in 'categories'. Add the category or correct the annotation."
    )


class _Judge:
    """Judges annotations one after the other, and remembers what it needs to know about the earlier ones."""

    def __init__(
        self,
        entries: Sequence[Entry],
        images: IdTable,
        categories: IdTable,
        report: Report,
        sides: Sides,
        stock: bool,
    ) -> None:
        self.images, self.categories, self.report, self.sides, self.stock = images, categories, report, sides, stock
        self._entries = entries
        self._by_id: dict[int, int] = {}  # the place of the first annotation with each id
        self._contents: set[int] = set()
        self._used: set[Any] = set()  # ids of used categories

    def drafts(self, start: int, entries: Iterable[Entry]) -> Iterator[Draft | None]:
        """The annotations from number `start` on, judged but not yet measured; None for one that cannot be used."""
        for place, entry in enumerate(entries, start):
            yield self._draft(place, entry)

    def _draft(self, place: int, entry: Entry) -> Draft | None:
        changes: dict[str, Any] = {}
        image = self._named(entry, "image_id", self.images, changes)
        repeated = self._judge_id(place, entry, image)
        category = self._named(entry, "category_id", self.categories, changes)
        if category is None:
            text = unknown_category_text(self.report.json_file, entry)
            self.report.add("unknown category", f"{text} ({where(entry, image)})", "", fatal=True)
        if image is None:
            self._report_homeless(entry)
            return None
        crowd = self._crowd(entry, image)
        if type(entry.get("iscrowd")) is not int or entry["iscrowd"] != crowd:
            changes["iscrowd"] = crowd
        self._judge_repetition(entry, image)
        segmentation = self._segmentation(entry.get("segmentation"), entry, image)
        if category is None or repeated or segmentation is None:
            return None
        self._used.add(category["id"])
        return Draft(entry, image, changes, segmentation)

    def report_unused_categories(self) -> None:
        """Reports categories without annotations. Call it when all annotations are judged."""
        advice = "Nothing is learned of it from this file, and a test set's AP leaves it out."
        for identity, category in self.categories.items():
            if identity not in self._used:
                example = f"category {identity}: {category_name(category)}"
                self.report.add("category without a usable annotation", example, advice)

    def _named(self, entry: Entry, key: str, table: IdTable, changes: dict[str, Any]) -> Entry | None:
        """The image or category that an annotation names."""
        given = entry.get(key)
        found: Entry | None
        try:
            found = table.get(given)
        except TypeError:  # a list, for example
            return None
        if found is not None and given is not True and given is not False:
            return found
        identity = table.find(given)
        if identity is None or table[identity] is None:
            return None
        changes[key] = identity
        example = f"annotation {entry.get('id')}: {key} {given!r} for {identity!r}"
        self.report.add(f"{key} of another type", example, "It is understood; write the id as in its own list.")
        return table[identity]  # type: ignore[no-any-return]

    def _judge_id(self, place: int, entry: Entry, image: Entry | None) -> bool:
        """Judges an annotation's own id; returns whether the same annotation was listed before."""
        identity = entry.get("id")
        if type(identity) is int and 0 < identity < EXACT:
            before = self._by_id.setdefault(identity, place)
            if before == place:
                return False
            if self._entries[before] == entry:
                self.report.add("annotation listed twice", where(entry, image), "Only the first one is used.")
                return True
            kind, advice = "duplicate annotation id", "Give the annotations new ids; the evaluation uses a copy."
        elif identity is None:
            kind, advice = "annotation without id", "Number the annotations from 1; the evaluation uses a copy."
        elif identity == 0:
            kind, advice = "annotation id 0", "COCO's evaluation ignores id 0; ours uses a copy numbered from 1."
        else:
            kind = "annotation id that is no positive whole number"
            advice = "Number the annotations from 1; the evaluation uses a copy."
        self.report.ids_serve, self.report.mended = False, True
        self.report.add(kind, where(entry, image), advice)
        return False

    def _report_homeless(self, entry: Entry) -> None:
        given = entry.get("image_id")
        if self.images.find(given) is not None:  # the report already has this image
            return
        example = f"annotation {entry.get('id')}: image_id {given!r}"
        advice = "It is left out; add the image to 'images'."
        self.report.add("annotation of an unknown image", example, advice)

    def _crowd(self, entry: Entry, image: Entry) -> int:
        crowd = 0
        for key in ("iscrowd", "ignore"):
            value = entry.get(key)
            if value is None or value == 0:
                continue
            flag = _flag(value)
            if flag is None:
                example = f"{where(entry, image)}: {key} {value!r}"
                self.report.add(f"{key} neither 0 nor 1", example, "It counts as 0.")
            crowd |= bool(flag)
        if crowd:
            advice = "Not trained on; the evaluation ignores what lies in it."
            self.report.add("crowd", where(entry, image), advice)
        return int(crowd)

    def _judge_repetition(self, entry: Entry, image: Entry) -> None:
        box = entry.get("bbox")
        if not box:
            return
        try:
            content = hash((entry["image_id"], entry.get("category_id"), *box))
        except TypeError:
            content = hash((str(entry["image_id"]), str(entry.get("category_id")), str(box)))
        if content in self._contents:
            advice = "Another one has the same image, category and box."
            self.report.add("duplicate annotation", where(entry, image), advice)
        self._contents.add(content)

    def _segmentation(self, given: Any, entry: Entry, image: Entry) -> Any:
        """Valid polygon parts, or an RLE without a problem; None if there is neither."""
        if isinstance(given, list) and given and all(map(is_valid_part, given)):
            return given
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
            given = given[0]
        if isinstance(given, dict):
            problem = rle_problem(given, image["height"], image["width"])
            self.sides.see_mask(image, given, fits=problem is None)
            if problem is None:
                return given
            self.report.add(
                "broken run-length mask", f"{where(entry, image)}: {problem}", "The annotation is left out."
            )
            return None
        parts, broken = read_parts(given)
        if not parts:
            advice = f"Give it at least three points (six finite numbers), in the form {_WANTED}."
            example = f"{where(entry, image)}: {_described(given)}"
            kind = "segmentation without any part of three points"
            self.report.add(kind, example, advice, fatal=not self.stock)
            return None
        if broken:
            advice = "Parts with fewer than three points, an odd count or numbers that are not finite are left out."
            self.report.add("broken polygon part", f"{where(entry, image)}: {broken} parts", advice)
        if sum(map(is_valid_part, given)) != len(parts):
            example = f"{where(entry, image)}: {_described(given)}"
            self.report.add("polygon in another form", example, f"It is read; COCO's form is {_WANTED}.")
        return parts


def _flag(value: Any) -> bool | None:
    """The truth value that `iscrowd` or `ignore` has, if it has any."""
    if isinstance(value, str) and value.strip().lower() in _NO + _YES:
        return value.strip().lower() in _YES
    given = float(value) if isinstance(value, bool) else number(value)
    return bool(given) if given in (0, 1) else None


def _described(given: Any) -> str:
    if given is None:
        return "no segmentation"
    return f"segmentation {reprlib.repr(given)[:60]}"  # short however deep its lists are
