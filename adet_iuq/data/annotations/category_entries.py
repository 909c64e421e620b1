"""Judges the list `categories` of a COCO-format file: ids and names."""

from collections import Counter
from typing import Any

from adet_iuq.data.annotations.numbers import IdTable, is_id, sorted_ids
from adet_iuq.data.annotations.report import Report, printable

Entry = dict[str, Any]


def sanitize_categories(entries: list[Entry], report: Report) -> tuple[list[Entry], IdTable]:
    """The usable entries, each with a unique id and a unique name; and the same entries by id."""
    table = IdTable()
    for entry in entries:
        identity = entry.get("id")
        if not is_id(identity):
            advice = "It is left out; give every category an 'id' (a number or a word)."
            report.add("category without id", str(entry)[:100], advice)
        elif identity in table:
            report.add("duplicate category id", f"category {identity}", "Only the first one counts.")
        else:
            table[identity] = entry
    counts = Counter(category_name(entry) for entry in table.values())
    for identity, entry in table.items():
        name = printable(category_name(entry))
        if counts[name] > 1:
            told_apart = f"{name} (id {identity})"
            while told_apart in counts:  # names must differ, because classes are matched by name
                told_apart += "*"
            advice = "They stay two classes, told apart by their ids; if they are one, give their annotations one id."
            report.add("two categories of one name", f"category {identity}: {name}", advice)
            table[identity] = {**entry, "name": told_apart}
        elif entry.get("name") != name:
            table[identity] = {**entry, "name": name}
    return list(table.values()), table


def category_name(entry: Entry) -> str:
    """A category's name, or its id if it has no name."""
    name = entry.get("name")
    return str(entry["id"] if name is None or name == "" else name)


def class_numbers(categories: list[Entry]) -> tuple[list[str], dict[Any, int]]:
    """Class names in the order of their ids, and the map from category id to class number, of sanitised entries."""
    names = {entry["id"]: category_name(entry) for entry in categories}
    ids = sorted_ids(names)
    return [names[i] for i in ids], {i: number for number, i in enumerate(ids)}
