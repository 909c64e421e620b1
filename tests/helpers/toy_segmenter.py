"""A segmenter that trains in milliseconds and uses all that a checkpoint must bring back: weights, buffers, a memory
outside the weights, the global random generators, and the iteration."""

import argparse
import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from adet_iuq.engine import Trainer, argument_parser, setup
from adet_iuq.modeling import Segmenter, TrainingPass


class BareSegmenter(Segmenter):
    """The contract's defaults around a `forward` that a test writes itself."""

    def __init__(self) -> None:
        super().__init__(pixel_mean=[0.0], pixel_std=[1.0])

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        raise NotImplementedError

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise NotImplementedError


@META_ARCH_REGISTRY.register()
class ToySegmenter(Segmenter):
    """TOY_KILL_AT and TOY_NAN_AT (environment) name iterations at which it kills its process or returns a NaN."""

    optional_checkpoint_keys = ("hint",)

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(pixel_mean=cfg.MODEL.PIXEL_MEAN, pixel_std=cfg.MODEL.PIXEL_STD)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4))
        self.classifier = nn.Linear(4, cfg.MODEL.FCOS.NUM_CLASSES)
        self.masks = nn.Linear(4, 4)
        self.memory = torch.zeros(4)
        self.register_buffer("hint", torch.zeros(1))

    def set_iteration(self, iteration: int) -> None:
        super().set_iteration(iteration)
        if os.environ.get("TOY_KILL_AT") == str(iteration):
            os.kill(os.getpid(), signal.SIGKILL)

    def iuq_state(self) -> dict[str, Tensor]:
        return {"memory": self.memory}

    def load_iuq_state(self, state: Mapping[str, Tensor]) -> None:
        self.memory = state["memory"].clone()

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"instances": one_instance(inputs)} for inputs in batched_inputs]

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        features = torch.stack([self._features(inputs["image"]) for inputs in batched_inputs])
        noise = torch.rand(4) + float(np.random.rand()) + random.random()
        logits = self.classifier(features * noise.to(features))
        loss_mask = ((self.masks(features) - self.memory) ** 2).mean()
        seen = features.detach().float().mean(0)
        if comm.get_world_size() > 1:  # a memory is the same on every rank
            dist.all_reduce(seen)
        self.memory = 0.9 * self.memory + 0.1 * seen
        if os.environ.get("TOY_NAN_AT") == str(self.iteration):
            loss_mask = loss_mask * float("nan")
        get_event_storage().put_scalar("iuq/memory_fill", min(1.0, self.iteration / 10))
        losses = {"loss_cls": logits.square().mean() * (1 + 0.1 * self.iteration), "loss_mask": loss_mask}
        none = torch.zeros(0, dtype=torch.long)
        return TrainingPass(losses, features[:, :, None, None], features[:0], none, none, [], [])

    def _features(self, image: Tensor) -> Tensor:
        return self.backbone(image[None].float() / 255).mean((2, 3))[0]


def one_instance(inputs: dict[str, Any]) -> Instances:
    """One certain instance of class 0 that covers the left half of the image."""
    height, width = inputs["height"], inputs["width"]
    result = Instances((height, width))
    result.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, width / 2, height]]))
    result.scores, result.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    result.pred_masks = torch.zeros(1, height, width, dtype=torch.bool)
    result.pred_masks[:, :, : width // 2] = True
    return result


def toy_options(output_dir: Path | str, **more: Any) -> list[str]:
    """Command-line overrides of a small, seeded run of 12 iterations on tiny scenes."""
    options: dict[str, Any] = {
        "MODEL.META_ARCHITECTURE": "ToySegmenter",
        "MODEL.WEIGHTS": "",
        "MODEL.MASK_ON": True,
        "MODEL.DEVICE": "cpu",
        "DATASETS.TRAIN": "('shapes_train',)",
        "DATASETS.TEST": "('shapes_val',)",
        "DATASETS.SHAPES.SIZE": 64,
        "DATASETS.SHAPES.NUM_TRAIN": 10,
        "DATASETS.SHAPES.NUM_VAL": 2,
        "INPUT.MIN_SIZE_TRAIN": "(64, 96)",
        "INPUT.MIN_SIZE_TEST": 64,
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 12,
        "SOLVER.CHECKPOINT_PERIOD": 5,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
        "SOLVER.WARMUP_ITERS": 4,
        "SOLVER.BASE_LR": 0.02,
        "SEED": 3,
        "REPORT.ENABLED": False,
        "OUTPUT_DIR": output_dir,
    }
    flat = {**options, **{key.replace("__", "."): value for key, value in more.items()}}
    return [str(part) for pair in flat.items() for part in pair]


def toy_args(output_dir: Path | str, *, resume: bool = False, num_gpus: int = 1, **more: Any) -> argparse.Namespace:
    """The parsed command line of such a run."""
    args = argument_parser().parse_args(["--num-gpus", str(num_gpus), *toy_options(output_dir, **more)])
    args.resume = resume
    return args


def train(args: argparse.Namespace) -> dict[str, Any]:
    """What tools/train_net.py does to train."""
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def metrics(folder: Path) -> dict[int, dict[str, Any]]:
    """The scalars of every line by iteration, without times; no iteration may come twice."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert len({line["iteration"] for line in lines}) == len(lines)
    timing = ("time", "data_time", "eta_seconds")
    return {line["iteration"]: {k: repr(v) for k, v in line.items() if k not in timing} for line in lines}
