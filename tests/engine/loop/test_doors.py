"""Methods of the trainer that users override, with exactly the signatures of detectron2's DefaultTrainer."""

import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator

from adet_iuq.config import get_cfg
from adet_iuq.data import TrainingMapper, build_test_loader, build_train_loader
from adet_iuq.engine import Trainer, setup
from adet_iuq.errors import UserError
from helpers.toy_segmenter import metrics, toy_args

Batch = list[dict[str, Any]]


class CountingEvaluator(DatasetEvaluator):
    """Counts images that came through the trainer's own mapper."""

    def reset(self) -> None:
        self.count = 0

    def process(self, inputs: Any, outputs: Any) -> None:
        self.count += sum(sample["mine"] for sample in inputs)

    def evaluate(self) -> dict[str, Any]:
        return {"segm": {"AP": float(self.count)}}


class MyMapper(TrainingMapper):
    """The built-in mapper, with a mark on its samples."""

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        return {**super().__call__(record), "mine": True}


class MyTrainer(Trainer):
    """Overrides all three as one does with DefaultTrainer."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_train_loader(cfg, mapper=MyMapper(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        mapper = DatasetMapper(cfg, is_train=False)
        return build_test_loader(cfg, dataset_name, mapper=lambda record: {**mapper(record), "mine": True})

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return CountingEvaluator()


class DetectronTrainer(Trainer):
    """Its batches come from detectron2's loader."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, is_train=True))


class ListTrainer(Trainer):
    """Its loader is a list of two batches."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> list[Batch]:
        return list(itertools.islice(build_train_loader(cfg), 2))


class EmptyTrainer(Trainer):
    """Its loader has nothing."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> list[Batch]:
        return []


def run(kind: type[Trainer], folder: Path, resume: bool = False, **options: Any) -> Trainer:
    trainer = kind(setup(toy_args(folder, **{"SOLVER__MAX_ITER": 6, "SOLVER__CHECKPOINT_PERIOD": 3, **options})))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_signatures_are_those_of_detectron2() -> None:
    for name in ("build_model", "build_train_loader", "build_test_loader", "build_evaluator", "build_optimizer"):
        ours, theirs = (inspect.signature(getattr(one, name)) for one in (Trainer, DefaultTrainer))
        assert list(ours.parameters) == list(theirs.parameters), name


def test_overridden_loaders_and_evaluator_serve_and_resume(tmp_path: Path) -> None:
    trainer = run(MyTrainer, tmp_path / "unbroken")
    assert trainer.last_results["segm"]["AP"] == 2
    own = metrics(tmp_path / "unbroken")
    run(MyTrainer, tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text("model_0000002.pth")
    run(MyTrainer, tmp_path / "resumed", resume=True)
    assert metrics(tmp_path / "resumed") == own
    run(Trainer, tmp_path / "plain")  # the same mapper but for the mark: the same samples
    plain = metrics(tmp_path / "plain")
    assert [own[i]["total_loss"] for i in range(6)] == [plain[i]["total_loss"] for i in range(6)]


def test_micro_batches_reach_an_overridden_loader(tmp_path: Path) -> None:
    trainer = run(MyTrainer, tmp_path, DATASETS__TEST="()", SOLVER__IMS_PER_BATCH=4, SOLVER__IMS_PER_PROCESS=2)
    plan = trainer._trainer.data_loader.plan  # type: ignore[union-attr]
    assert (plan.images_per_batch, plan.micro_batches, plan.seed) == (4, 2, trainer.data_seed)


def test_a_foreign_loader_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = run(DetectronTrainer, tmp_path / "detectron2", DATASETS__TEST="()", INPUT__MASK_FORMAT="bitmask")
    assert trainer.iter == 6 and set(range(6)) <= metrics(tmp_path / "detectron2").keys()
    log = (tmp_path / "detectron2" / "log.txt").read_text()
    assert log.count("its position is not restored by --resume") == 1


def test_a_loader_that_ends_starts_over(tmp_path: Path) -> None:
    run(ListTrainer, tmp_path, DATASETS__TEST="()")
    assert set(range(6)) <= metrics(tmp_path).keys()
    with pytest.raises(UserError, match="no batch"):
        run(EmptyTrainer, tmp_path / "empty", DATASETS__TEST="()")
    with pytest.raises(UserError, match="gave 6 images, which do not make 4 equal"):
        run(Uneven, tmp_path / "uneven", DATASETS__TEST="()", SOLVER__IMS_PER_BATCH=8, SOLVER__IMS_PER_PROCESS=2)


class Uneven(Trainer):
    """Gives another number of images than the step needs."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterator[Batch]:
        return iter([batch + batch[:2] for batch in itertools.islice(build_train_loader(cfg, images_per_batch=4), 2)])


def test_setup_takes_functions_that_add_keys(tmp_path: Path) -> None:
    def add_own_config(cfg: CfgNode) -> None:
        cfg.OWN = 1

    assert setup(toy_args(tmp_path, OWN=5), add_own_config).OWN == 5
    assert "OWN" not in get_cfg()
