"""Lists found in a JSON text hold what a parser of the whole text says, or the text is left to that parser."""

import json
import random
from typing import Any

import pytest

from adet_iuq.data.annotations import lazy_json
from adet_iuq.data.annotations.lazy_json import Entries, outline

SECTIONS = ("images", "annotations", "categories")

ENTRIES: list[Any] = [
    {"id": 1, "name": 'quote " brace } and ] bracket', "deep": [[1, [2, {"a": {}}]]]},
    {"back\\slash": "\\", "two": "\\\\", "then a quote": '\\"', "at the end": 'a\\\\"', "ä": "Ω\u2028"},
    {},
    {"segmentation": [[1.5, 2, -3e8]], "text": "[{,}]"},
]


@pytest.fixture(params=[1, 7, 64, 1 << 20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts in parts that break anywhere."""
    monkeypatch.setattr(lazy_json, "_BLOCK", request.param)


def whole(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value[:] if isinstance(value, Entries) else value for key, value in found.items()}


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_text_reads_like_a_parsers(indent: int | None, ascii_only: bool) -> None:
    for seed in range(10):
        draw = random.Random(seed)
        keys = [*SECTIONS, "info", 'a "key" {', "licenses"]
        draw.shuffle(keys)
        content: dict[str, Any] = {key: draw.choices(ENTRIES, k=draw.randrange(5)) for key in keys[:4]}
        content["info"] = {"images": [{"id": 5}], "text": 'no "images": [{'}
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only).encode()
        found = outline(text, SECTIONS)
        assert found is not None and whole(found) == content
        for section in SECTIONS:
            assert isinstance(found.get(section, []), Entries) == bool(content.get(section))


def test_entries_are_a_sequence() -> None:
    found = outline(json.dumps({"annotations": ENTRIES}).encode(), SECTIONS)
    assert found is not None
    entries = found["annotations"]
    assert list(entries) == ENTRIES and entries[-1] == ENTRIES[-1] and entries[1:3] == ENTRIES[1:3]
    assert entries[3:] == ENTRIES[3:] and entries[4:] == [] and len(entries) == 4
    with pytest.raises(IndexError):
        entries[4]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"  ",
        b"[1, 2]",
        b'{"images": [{"id": 1}, 5, {"id": 2}]}',
        b'{"images": [5, {"id": 1}]}',
        b'{"images": [{"id": 1}, 5]}',
        b'{"images": [{"id": 1}, [2]]}',
        b'{"images": [{"id": 1},]}',
        b'{"images": [{"id": 1} {"id": 2}]}',
        b'{"images": [{"id": 1},, {"id": 2}]}',
        b'{"images": {"a": {"id": 1}}}',
        b'{"images": [{"id": 1}]} more',
        b'{"images": [{"id": 1}]',
        b'{"images": [{"id": 1]}',
        b'{"images": [{"id": "1}]}',
        b'{"images": [{"id": 1}], }',
        b'{"images" [{"id": 1}]}',
        json.dumps({"images": [{"id": 1}]}).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps({"images": [{"id": 1}]}).encode(),
    ],
)
def test_what_is_no_list_of_objects_is_left_to_a_parser(text: bytes) -> None:
    """Nothing is found; or an error shows at the access."""
    found = outline(text, SECTIONS)
    if found is None:
        return
    try:
        assert whole(found) == json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            whole(found)


def test_the_last_of_two_lists_counts() -> None:
    found = outline(b'{"images": [{"id": 1}], "images": [{"id": 2}, {"id": 3}]}', SECTIONS)
    assert found is not None and whole(found) == {"images": [{"id": 2}, {"id": 3}]}
