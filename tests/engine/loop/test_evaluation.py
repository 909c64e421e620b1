import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from adet_iuq.engine import Trainer, setup
from adet_iuq.errors import UserError
from helpers.toy_segmenter import ToySegmenter, metrics, toy_args, train

MOSAIC: dict[str, Any] = {"TEST__MOSAIC__ENABLED": True, "SOLVER__MAX_ITER": 3}


@META_ARCH_REGISTRY.register()
class CountedToy(ToySegmenter):
    """The toy, which writes down how many images it believes in every picture."""

    seen: ClassVar[list[tuple[int, int]]] = []

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.seen.extend((self.images_per_picture, inputs["image"].shape[1]) for inputs in batched_inputs)
        return super().inference(batched_inputs)


def evaluated(folder: Path, name: str, **options: Any) -> tuple[CfgNode, dict[str, Any]]:
    cfg = setup(toy_args(folder, MODEL__META_ARCHITECTURE=name, **MOSAIC, **options))
    return cfg, Trainer.test(cfg, Trainer.build_model(cfg))


def test_mosaics_are_evaluated_beside_their_set(tmp_path: Path) -> None:
    """The toy finds the left half of every picture: its box's centre lies in the lower left tile, half of it above."""
    CountedToy.seen.clear()
    _, results = evaluated(tmp_path, "CountedToy")
    assert list(results) == ["shapes_val", "shapes_val_mosaic"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written["shapes_val"]) == ["bbox", "segm"]
    assert list(written["shapes_val_mosaic"]) == ["bbox", "segm", "mosaic"]
    assert written["shapes_val_mosaic"]["mosaic"] == {
        "leak_rate": 50.0, "leak_rate_area": 50.0, "duplicate_rate": 0.0, "detections": 1.0,
    }  # fmt: skip
    assert CountedToy.seen == [(1, 64), (1, 64), (4, 128)]


def test_a_training_reports_them_and_keeps_the_best_of_the_set_itself(tmp_path: Path) -> None:
    train(toy_args(tmp_path, **MOSAIC))
    last = metrics(tmp_path)[3]
    assert {"shapes_val/segm/AP", "shapes_val_mosaic/segm/AP", "shapes_val_mosaic/mosaic/leak_rate"} <= last.keys()
    best = json.loads((tmp_path / "model_best.json").read_text())
    assert best["metric"] == "shapes_val/segm/AP"


def test_a_base_segmenter_has_no_queries_to_probe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"TEST\.QUERY_PROBE needs .* ToySegmenter is none"):
        Trainer(setup(toy_args(tmp_path, TEST__QUERY_PROBE__ENABLED=True)))
