"""What is kept of a JSON file equals what a fresh look gives, is made anew where it must be, and serves every process."""

import copy
import json
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from adet_iuq.data.annotations import digest_cache
from adet_iuq.data.annotations.coco_json import load_coco_records, read_sanitized
from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.annotations.evaluation_json import evaluation_json
from adet_iuq.data.annotations.records import Records
from adet_iuq.errors import UserError

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read and judged."""
    files: list[str] = []
    original = digest_cache.make_digest

    def counting(json_file: str, *arguments: Any) -> Any:
        files.append(json_file)
        return original(json_file, *arguments)

    monkeypatch.setattr(digest_cache, "make_digest", counting)
    return files


def another_process() -> None:
    """Forgets what this one holds in memory."""
    digest_cache._kept.clear()


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "annotations").iterdir() if path.is_dir()]


def flawed(content: Content) -> Content:
    """Images without a size, run lengths in both forms, an annotation left out, words for ids, a polygon as one list."""
    content["annotations"][0]["segmentation"] = content["annotations"][0]["segmentation"][0]
    content["annotations"][1]["segmentation"] = {"size": [30, 40], "counts": [30, 60, 1110]}
    content["annotations"].append({**content["annotations"][0], "id": "x", "segmentation": [[1, 1, 1, 1, 1, 1]]})
    del content["images"][1]["height"]
    content["categories"][0]["id"] = "nine"
    for annotation in content["annotations"]:
        annotation["category_id"] = {9: "nine"}.get(annotation["category_id"], annotation["category_id"])
    return content


def test_a_hit_equals_a_fresh_look(content: Content, write: Writer, made: list[str]) -> None:
    _, json_file, root = write(flawed(content))
    first = digest_of(json_file, root)
    records = load_coco_records(json_file, root)
    fresh = copy.deepcopy(list(records))
    another_process()
    second = digest_of(json_file, root)
    assert made == [json_file] and second is not first
    assert second.digest.report == first.digest.report and second.digest.report.left_out
    assert second.digest.class_numbers == first.digest.class_numbers == {3: 0, "nine": 1}
    assert load_coco_records(json_file, root) == fresh
    assert isinstance(fresh[0]["annotations"][1]["segmentation"]["counts"], bytes)
    assert isinstance(fresh[1]["annotations"][1]["segmentation"]["counts"], str)


def test_records_are_those_of_the_sanitised_content(content: Content, write: Writer) -> None:
    _, json_file, root = write(flawed(content))
    found, report = read_sanitized(json_file, root)
    records = load_coco_records(json_file, root)
    assert digest_of(json_file, root).digest.report == report
    names = {3: 0, "nine": 1}
    for record, image in zip(records, found["images"], strict=True):
        assert (record["image_id"], record["height"], record["width"]) == (image["id"], 30, 40)
        wanted = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        for key in ("iscrowd", "bbox", "segmentation"):
            assert [a[key] for a in record["annotations"]] == [a[key] for a in wanted]
        assert [a["category_id"] for a in record["annotations"]] == [names[a["category_id"]] for a in wanted]
    assert records.has_instance.tolist() == [True, True, False] and records.is_wide.all()


def test_each_access_makes_a_new_record(content: Content, write: Writer) -> None:
    records = load_coco_records(*write(content)[1:])
    records[0]["annotations"].clear()
    assert len(records[0]["annotations"]) == 2 and len(records[:2]) == 2 and records[-1]["image_id"] == 9
    with pytest.raises(IndexError):
        records[3]
    assert records != [*records[:2]] and records == list(records)


def test_a_changed_file_is_read_again(content: Content, write: Writer, made: list[str], cache: Path) -> None:
    _, json_file, root = write(content)
    assert len(load_coco_records(json_file, root)[0]["annotations"]) == 2
    del content["annotations"][0]
    Path(json_file).write_text(json.dumps(content))
    assert len(load_coco_records(json_file, root)[0]["annotations"]) == 1
    another_process()
    load_coco_records(json_file, root)
    assert len(made) == 2 and len(folders(cache)) == 1


def test_the_version_of_the_pass_counts(
    content: Content, write: Writer, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, json_file, root = write(content)
    digest_of(json_file, root)
    digest_of(json_file, root, stock=True)
    another_process()
    monkeypatch.setattr(digest_cache, "VERSION", digest_cache.VERSION + 1)
    digest_of(json_file, root)
    assert len(made) == 3


def test_a_size_taken_from_an_image_is_taken_anew_when_that_changes(content: Content, write: Writer) -> None:
    del content["images"][0]["width"]
    _, json_file, root = write(content)
    assert load_coco_records(json_file, root)[0]["width"] == 40
    Image.new("RGB", (60, 30)).save(os.path.join(root, "7.png"))
    assert load_coco_records(json_file, root)[0]["width"] == 60
    another_process()
    os.unlink(os.path.join(root, "7.png"))
    assert "image without a size" in digest_of(json_file, root).digest.report.problems
    Image.new("RGB", (41, 30)).save(os.path.join(root, "7.png"))
    assert load_coco_records(json_file, root)[0]["width"] == 41


@pytest.mark.parametrize("name", ["facts.pickle", "annotations.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "nonsense"])
def test_a_damaged_folder_is_made_again(
    name: str, damage: str, content: Content, write: Writer, made: list[str], cache: Path
) -> None:
    _, json_file, root = write(content)
    expected = list(load_coco_records(json_file, root))
    another_process()
    path = folders(cache)[0] / name
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"cut": data[:-9], "empty": b"", "nonsense": b"x" * (len(data) + 1)}[damage])
    assert load_coco_records(json_file, root) == expected
    assert len(made) == 2


def test_damage_that_keeps_the_size_is_named(content: Content, write: Writer, cache: Path) -> None:
    _, json_file, root = write(content)
    load_coco_records(json_file, root)
    path = folders(cache)[0] / "annotations.json"
    another_process()
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match=rf"{folders(cache)[0]} are damaged\. Delete that folder"):
        load_coco_records(json_file, root)[0]


def test_a_folder_that_cannot_be_written(
    content: Content, write: Writer, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, json_file, root = write(flawed(content))
    kept = list(load_coco_records(json_file, root))
    another_process()
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    cache.rmdir()
    cache.write_text("a file is in the way")
    with caplog.at_level(logging.WARNING):
        records = load_coco_records(json_file, root)
    assert records == kept and "cannot be kept" in caplog.text and "ADET_IUQ_CACHE" in caplog.text
    assert pickle.loads(pickle.dumps(records)) == kept


def test_a_file_that_does_not_parse_leaves_nothing(content: Content, write: Writer, cache: Path) -> None:
    _, json_file, root = write(content)
    Path(json_file).write_text(json.dumps(content).replace('"iscrowd": 1', '"iscrowd": !'))
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{json_file} is not valid JSON: Expecting value at line 1, column \d+"):
            digest_of(json_file, root)
    assert not folders(cache)


def test_numbers_that_only_json_takes(content: Content, write: Writer) -> None:
    """orjson refuses NaN in an annotation; the plain parser then reads the whole file."""
    content["annotations"][2]["area"] = float("nan")
    _, json_file, root = write(content)
    records = load_coco_records(json_file, root)
    assert [len(record["annotations"]) for record in records] == [2, 2, 0]


def test_the_evaluation_of_a_sound_file_parses_nothing(
    content: Content, write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0].update(iscrowd=0, area=200)
    _, json_file, root = write(content)
    digest_of(json_file, root)
    another_process()
    for module in ("parsing", "coco_json", "digest"):
        monkeypatch.setattr(f"adet_iuq.data.annotations.{module}.read_coco_json", None)
    assert evaluation_json(json_file, str(tmp_path / "out"), image_root=root) == json_file


def _first(batch: list[Any]) -> Any:
    return batch[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same(method: str, content: Content, write: Writer) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    records = load_coco_records(*write(flawed(content))[1:]).renumbered([1, 0])
    loader: Any = DataLoader(records, num_workers=1, collate_fn=_first, multiprocessing_context=method)  # type: ignore[arg-type]
    assert list(loader) == list(records)
    assert [a["category_id"] for a in records[0]["annotations"]] == [1, 0]


def test_pickled_records_name_the_file(content: Content, write: Writer) -> None:
    content["annotations"] = [{**content["annotations"][0], "id": number} for number in range(1, 2000)]
    records = load_coco_records(*write(content)[1:])
    data = pickle.dumps(records)
    copied = pickle.loads(data)
    assert len(data) < 5000 and isinstance(copied, Records) and copied == records


def test_records_of_a_file_that_changed_meanwhile_are_refused(content: Content, write: Writer) -> None:
    """Else another process would cut the new texts in the old places. This one goes on with what it has."""
    _, json_file, root = write(content)
    records = load_coco_records(json_file, root)
    data, before = pickle.dumps(records), list(records)
    content["annotations"][0]["segmentation"][0][0] += 1
    Path(json_file).write_text(json.dumps(content))
    assert load_coco_records(json_file, root) != before
    assert records == before
    with pytest.raises(UserError, match="its JSON file has changed"):
        pickle.loads(data)


_SCRIPT = """
import json, logging, sys
from adet_iuq.data.annotations.coco_json import load_coco_records
from adet_iuq.data.annotations import digest_cache
made, original = [], digest_cache.make_digest
def counting(*arguments):
    made.append(1)
    return original(*arguments)
digest_cache.make_digest = counting
records = load_coco_records(*sys.argv[1:])
print(json.dumps([len(made), [len(record["annotations"]) for record in records]]))
"""


def test_of_two_processes_one_reads_the_file(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SCRIPT, json_file, root]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    assert sorted(number for number, _ in found) == [0, 1]
    assert [lengths for _, lengths in found] == [[2, 2, 0]] * 2
