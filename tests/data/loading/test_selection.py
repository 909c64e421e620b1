"""Records of several data sets in one row, whether they are a list or made one by one."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

from adet_iuq.data.annotations.coco_json import load_coco_records
from adet_iuq.data.loading.selection import Selection

Writer = Callable[..., tuple[str, str, str]]


def test_lists_and_records_are_selected_alike(content: dict[str, Any], write: Writer) -> None:
    content["images"][2].update(height=50)
    records = load_coco_records(*write(content)[1:])
    listed = [*copy.deepcopy(list(records)), {"file_name": "a.png", "height": 5, "width": 9, "image_id": "a"}]
    expected = [(0, 7), (1, 8), (3, 7), (4, 8), (6, "a"), (7, 7), (8, 8)]
    chosen = Selection([records, listed, records], only_with_instances=True)
    assert [(one["image_id"], one["dataset_image_id"]) for one in chosen] == expected
    assert [one["image_id"] for one in chosen[2:4]] == [3, 4] and chosen[-1]["image_id"] == 8
    assert chosen[2]["annotations"] == chosen[0]["annotations"] == listed[0]["annotations"]
    assert chosen.is_wide.all()
    every = Selection([records, listed])
    assert [one["image_id"] for one in every] == list(range(7))
    assert every.is_wide.tolist() == [True, True, False, True, True, False, True]


def test_each_access_makes_a_new_record(content: dict[str, Any], write: Writer) -> None:
    records = load_coco_records(*write(content)[1:])
    chosen = Selection([list(records), records])
    for place in (0, 3):
        chosen[place]["annotations"].clear()
        chosen[place]["image_id"] = 5
        assert chosen[place]["image_id"] == place and len(chosen[place]["annotations"]) == 2
    assert list(pickle.loads(pickle.dumps(chosen))) == list(chosen)
