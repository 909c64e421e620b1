"""Classes are the same by name, whatever number a file gives them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.data import fill_class_counts, load_dataset, register_datasets
from adet_iuq.data.registration.class_names import TrainedClasses
from adet_iuq.errors import UserError

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]


@pytest.fixture
def swapped(content: Content) -> Content:
    """The same objects; the ids of the two classes are each other's."""
    other = copy.deepcopy(content)
    for entry in other["categories"]:
        entry["id"] = 12 - entry["id"]
    for annotation in other["annotations"]:
        annotation["category_id"] = 12 - annotation["category_id"]
    return other


def labels(name: str) -> list[int]:
    return [annotation["category_id"] for record in load_dataset(name) for annotation in record["annotations"]]


@pytest.mark.parametrize("also_trained", [False, True])
def test_another_order_is_mapped(registered: CfgNode, swapped: Content, write: Writer, also_trained: bool) -> None:
    first, other = registered.DATASETS.TRAIN[0], write(swapped)
    registered.DATASETS.REGISTER = [*registered.DATASETS.REGISTER, list(other)]
    registered.DATASETS.TEST = (other[0],)
    if also_trained:
        registered.DATASETS.TRAIN = (first, other[0])
    register_datasets(registered)
    assert labels(other[0]) == [1 - label for label in labels(first)]
    fill_class_counts(registered)
    register_datasets(registered)  # loaders and mosaics call it again
    metadata = MetadataCatalog.get(other[0])
    assert metadata.thing_classes == MetadataCatalog.get(first).thing_classes == ["dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 1, 9: 0}
    assert labels(other[0]) == labels(first)
    registered.DATASETS.TRAIN = (other[0],)  # alone, it keeps the order of its own ids
    fill_class_counts(registered)
    assert MetadataCatalog.get(other[0]).thing_classes == ["cat", "dog"]


def test_the_order_of_the_weights_counts_most(registered: CfgNode) -> None:
    name = registered.DATASETS.TRAIN[0]
    before = labels_after(registered, None)
    for binding in (True, False):
        trained = TrainedClasses(("cat", "dog"), "model_final.pth", binding)
        assert labels_after(registered, trained) == [1 - label for label in before]
        assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    assert labels_after(registered, None) == before


def labels_after(cfg: CfgNode, trained: TrainedClasses | None) -> list[int]:
    fill_class_counts(cfg, frozenset(), trained)
    return labels(cfg.DATASETS.TRAIN[0])


def test_other_classes_of_weights_are_refused_where_they_must_serve(registered: CfgNode) -> None:
    name = registered.DATASETS.TRAIN[0]
    with pytest.raises(
        UserError, match=rf"The weights a\.pth \(1 classes: cow\) and data set '{name}' \(2 classes: dog, cat\)"
    ):
        fill_class_counts(registered, frozenset(), TrainedClasses(("cow",), "a.pth", True))
    fill_class_counts(registered, frozenset(), TrainedClasses(("cow",), "a.pth", False))
    assert MetadataCatalog.get(name).thing_classes == ["dog", "cat"] and registered.MODEL.FCOS.NUM_CLASSES == 2


def test_what_cannot_be_mapped_is_refused(cfg: CfgNode, content: Content, write: Writer) -> None:
    names = ["disc", "triangle", "square", "star", "ring"]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.DATASETS.REGISTER = ("shapes_train",), (), []
    with pytest.raises(UserError, match=r"'shapes_train' has the classes .*another order.*DATASETS\.REGISTER only"):
        fill_class_counts(cfg, frozenset(), TrainedClasses(tuple(reversed(names)), "a.pth", True))
    twice, other = copy.deepcopy(content), copy.deepcopy(content)
    for one, order in ((twice, "aab"), (other, "aba")):
        one["categories"] = [{"id": (3, 9, 11)[i], "name": name} for i, name in enumerate(order)]
    entries = [write(twice), write(other)]
    cfg.DATASETS.REGISTER = [list(entry) for entry in entries]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (entries[0][0],), (entries[1][0],)
    with pytest.raises(UserError, match=r"lacks a \(id 9\) and adds a \(id 11\)"):  # two of one name go by their ids
        fill_class_counts(cfg)
