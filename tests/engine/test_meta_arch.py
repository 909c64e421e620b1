"""Which models the trainer takes: a Segmenter, found by its name; anything else is refused before anything happens."""

from pathlib import Path
from typing import Any

import pytest
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adet_iuq.config import get_cfg
from adet_iuq.engine import Trainer, setup
from adet_iuq.engine.meta_arch import find_segmenter, unwrap
from adet_iuq.errors import UserError
from adet_iuq.modeling.condinst import CondInstIUQ
from helpers.toy_segmenter import ToySegmenter, toy_args


@META_ARCH_REGISTRY.register()
class NoSegmenter(nn.Module):
    """Trains in any other framework, but declares nothing of the contract."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)


@META_ARCH_REGISTRY.register()
def build_something(cfg: Any) -> nn.Module:
    return NoSegmenter(cfg)


def cfg_of(name: str) -> Any:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = name
    return cfg


def test_a_segmenter_is_found_by_its_name() -> None:
    assert find_segmenter(cfg_of("CondInstIUQ")) is CondInstIUQ
    assert find_segmenter(cfg_of("ToySegmenter")) is ToySegmenter


@pytest.mark.parametrize("name", ["NoSegmenter", "build_something", "GeneralizedRCNN"])
def test_what_is_no_segmenter_is_refused_by_name_with_what_to_inherit(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf'"{name}" is no Segmenter.*Inherit adet_iuq\.modeling\.Segmenter'):
        Trainer(setup(toy_args(tmp_path, MODEL__META_ARCHITECTURE=name)))
    assert not list(tmp_path.glob("*.pth"))


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match=r'"CondInstUIQ" does not exist\. There are .*CondInst, CondInstIUQ'):
        find_segmenter(cfg_of("CondInstUIQ"))


def test_a_model_of_an_overridden_build_model_is_held_to_the_contract(tmp_path: Path) -> None:
    class OwnTrainer(Trainer):
        @classmethod
        def build_model(cls, cfg: Any) -> Any:
            return NoSegmenter(cfg)

    with pytest.raises(UserError, match=r"NoSegmenter is no Segmenter: inherit adet_iuq\.modeling\.Segmenter"):
        OwnTrainer(setup(toy_args(tmp_path)))


def test_unwrap_takes_the_segmenter_out_of_data_parallel(tmp_path: Path) -> None:
    model = Trainer.build_model(setup(toy_args(tmp_path)))
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert unwrap(wrapped) is model is unwrap(model)
