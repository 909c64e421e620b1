"""configs/lazy: the model of the YAML recipe, and a small one that learns, through the launcher's own trainer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lazy_train_net
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import get_cfg, load_config
from adet_iuq.data import register_shapes
from adet_iuq.engine.loop.lr_scheduler import build_lr_scheduler
from adet_iuq.modeling.condinst import CondInstIUQ
from helpers.attributes import settings
from helpers.golden import REPOSITORY

LAZY = REPOSITORY / "configs" / "lazy"
STEPS = 20
TINY = [
    "model.backbone.out_channels=64",
    "model.criterion.inter.start_iter=2",
    "model.criterion.inter.ramp_iters=2",
    "model.criterion.memory.capacity=1000",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[96]",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
]


@pytest.fixture(scope="module")
def published() -> Any:
    return LazyConfig.load(str(LAZY / "condinst_iuq.py"))


@pytest.fixture(scope="module")
def recipe() -> Any:
    return load_config(str(REPOSITORY / "configs/CondInst/R50_1x_iuq.yaml"), ["MODEL.DEVICE", "cpu"]).cfg


@pytest.fixture
def few_scenes(tmp_path: Path) -> Iterator[None]:
    cfg = get_cfg()
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path)
    cfg.DATASETS.SHAPES.SIZE, cfg.DATASETS.SHAPES.NUM_TRAIN, cfg.DATASETS.SHAPES.NUM_VAL = 96, 4, 2
    register_shapes(cfg)
    yield
    register_shapes(get_cfg())


def test_model_is_that_of_the_yaml_recipe(published: Any, recipe: Any) -> None:
    lazy, built = instantiate(published.model), build_model(recipe)
    assert type(lazy) is type(built) is CondInstIUQ
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (lazy, built)]
    assert list(shapes[0].items()) == list(shapes[1].items())
    trained = [{name for name, p in model.named_parameters() if p.requires_grad} for model in (lazy, built)]
    assert trained[0] == trained[1]
    ours, theirs = settings(lazy.train()), settings(built.train())
    differing = {path for path in ours.keys() | theirs.keys() if ours.get(path, "absent") != theirs.get(path, "absent")}
    assert differing == set()
    assert ours["._modules.iuq_criterion.inter.start_iter"] == 0.05 * recipe.SOLVER.MAX_ITER
    assert ours["._modules.iuq_criterion.inter.neg_weight"] == 0.1
    assert ours["._modules.proposal_generator.detection.nms_threshold"] == 0.6


def test_recipe_is_that_of_the_yaml_file(published: Any, recipe: Any) -> None:
    solver, loader = recipe.SOLVER, published.dataloader
    assert loader.train.total_batch_size == CondInstIUQ.images_per_batch(recipe)
    resize, flip = loader.train.mapper.augmentations
    assert tuple(resize.short_edge_length) == recipe.INPUT.MIN_SIZE_TRAIN and flip.horizontal
    assert (resize.sample_style, resize.max_size) == (recipe.INPUT.MIN_SIZE_TRAIN_SAMPLING, recipe.INPUT.MAX_SIZE_TRAIN)
    assert (loader.train.dataset.names,) == recipe.DATASETS.TRAIN
    assert (loader.test.dataset.names,) == (loader.evaluator.dataset_name,) == recipe.DATASETS.TEST
    assert published.train.max_iter == solver.MAX_ITER and published.train.init_checkpoint == recipe.MODEL.WEIGHTS
    ours = published.optimizer
    assert (ours.lr, ours.momentum, ours.weight_decay) == (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
    mine, other = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2))
    published.lr_multiplier.optimizer = mine
    schedules = instantiate(published.lr_multiplier), build_lr_scheduler(recipe, other)
    for _ in range(1200):
        assert schedules[0].get_last_lr() == schedules[1].get_last_lr()
        for optimizer, schedule in zip((mine, other), schedules, strict=True):
            optimizer.step()
            schedule.step()


@pytest.mark.slow
@pytest.mark.usefixtures("few_scenes")
def test_small_model_learns_and_its_state_can_be_moved() -> None:
    cfg = LazyConfig.apply_overrides(LazyConfig.load(str(LAZY / "condinst_iuq_shapes.py")), TINY)
    seed_all_rng(1)
    model = instantiate(cfg.model)
    trainer = lazy_train_net.LazyTrainer(cfg, model)
    trainer.train(0, STEPS)
    history = {name: [value for value, _ in values.values()] for name, values in trainer.storage.histories().items()}
    total = history["total_loss"]
    assert len(total) == STEPS
    assert sum(total[-5:]) < 0.95 * sum(total[:5])
    assert history["loss_inter"][:2] == [0, 0] and min(history["loss_inter"][2:]) > 0
    assert min(history["loss_equi"]) > 0

    moved = instantiate(cfg.model)
    moved.load_state_dict(model.state_dict())
    moved.load_iuq_state(model.iuq_state())
    ours, theirs = (one.iuq_criterion.memory.pixels() for one in (model, moved))
    assert len(ours) > 100
    assert torch.equal(ours.features, theirs.features) and torch.equal(ours.image_ids, theirs.image_ids)


@pytest.mark.slow
@pytest.mark.usefixtures("few_scenes")
def test_launcher_evaluates_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[dict[str, Any]] = []
    monkeypatch.setattr(lazy_train_net, "print_csv_format", evaluated.append)
    overrides = [
        f"train.output_dir={tmp_path / 'run'}",
        "train.log_period=1",
        "dataloader.test.num_workers=0",
        "model.proposal_generator.detection.score_threshold=0.0",
    ]
    for steps, resume in ((1, False), (3, True)):
        cfg = LazyConfig.load(str(LAZY / "condinst_iuq_shapes.py"))
        cfg = LazyConfig.apply_overrides(cfg, [*TINY, *overrides, f"train.max_iter={steps}"])
        lazy_train_net.train(cfg, resume)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1, 2]
    assert [set(results) for results in evaluated] == [{"bbox", "segm"}] * 2
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)
    assert saved["iteration"] == 2 and saved["trainer"]["optimizer"]["state"]
