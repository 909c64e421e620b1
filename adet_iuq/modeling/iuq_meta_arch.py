"""Instance-unique querying on any segmenter: the one forward pass that knows the method.

Shapes: see `adet_iuq.iuq.structures`.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.iuq import (
    CropFlip,
    EquivarianceLoss,
    InterSceneLoss,
    IUQCriterion,
    PixelMemory,
    Pixels,
    Queries,
    Scene,
    build_sampler,
    image_generator,
)
from adet_iuq.modeling.layers import instance_masks, mask_boxes
from adet_iuq.modeling.parts import part
from adet_iuq.modeling.segmenter import Segmenter, content_size

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Views:
    """How the second view g(I) of an image is drawn; names and meanings as MODEL.IUQ.EQUI."""

    views: str = "paired"
    flip_prob: float = 0.5
    crop_min: float = 0.6
    crop_max: float = 1.0

    def __post_init__(self) -> None:
        if self.views not in ("paired", "extra"):
            raise UserError(f'MODEL.IUQ.EQUI.VIEWS is "{self.views}"; it can be "paired" or "extra".')
        if not 0 < self.crop_min <= self.crop_max <= 1:
            raise UserError("MODEL.IUQ.EQUI needs 0 < CROP_MIN <= CROP_MAX <= 1.")


class IUQMetaArch(Segmenter):
    """Goes before a segmenter: `class CondInstIUQ(IUQMetaArch, CondInst)`. In evaluation it is that segmenter.

    A subclass implements `retrieve`, `retrieve_map` and `mask_loss`, and says in `memory_arguments` what its pixels are.
    """

    iuq_criterion: IUQCriterion

    @configurable
    def __init__(self, *, criterion: IUQCriterion, views: Views, **base: Any) -> None:
        """
        Args:
            criterion: both losses and the memory.
            views: how the second view of an image is drawn, if the criterion has an equivariance term.
            base: arguments of the segmenter.

        Raises:
            UserError: the memory was built for other pixels than the segmenter's.
        """
        super().__init__(**base)
        self.iuq_criterion, self.views = criterion, views
        memory = criterion.memory
        if memory is not None and memory.features.shape[1] != self.pixel_dim:
            raise UserError(
                f"The pixel memory was built for {memory.features.shape[1]} numbers a pixel, but {type(self).__name__} has "
                f"pixels of {self.pixel_dim}. Give PixelMemory that number (from a config: memory_arguments)."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The segmenter's arguments, and the criterion and views of MODEL.IUQ.

        Raises:
            UserError: a value that the method does not know.
        """
        base = super().from_config(cfg)
        criterion = build_criterion(cfg, cls.memory_arguments(cfg, base))
        return {**base, "criterion": criterion, "views": settings_from(Views, cfg.MODEL.IUQ.EQUI)}

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        """What only the segmenter can tell `PixelMemory`: `pixel_dim`, and `context` where pixels carry more.

        Args:
            cfg: the whole config.
            base: arguments of the segmenter's constructor.
        """
        return {"pixel_dim": cls.pixel_dim}

    @abstractmethod
    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """<q_n, i> of Eq. 4 for all pairs: (Q, P) logits."""

    @abstractmethod
    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """Each query on its own image's map, (B, D, Hf, Wf) to (Q, Hf, Wf) logits."""

    @abstractmethod
    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The base L_mask of logits (Q, Hf, Wf), cells outside `valid` (B, Hf, Wf) left out; zero without any query.

        Called on every rank in each step, so that it may reduce its normaliser (MODEL.REDUCE_NORMALIZER).
        """

    @classmethod
    def images_per_batch(cls, cfg: CfgNode) -> int:
        """Images that one iteration reads over all ranks: half of IMS_PER_BATCH when views are paired.

        Raises:
            UserError: paired views and an odd number of views per rank.
        """
        total, ranks = super().images_per_batch(cfg), comm.get_world_size()
        if not cfg.MODEL.IUQ.EQUI.ENABLED or cfg.MODEL.IUQ.EQUI.VIEWS != "paired":
            return total
        if total % (2 * ranks):
            raise UserError(
                f"SOLVER.IMS_PER_BATCH {total} on {ranks} process(es) does not give every process whole pairs of views. "
                f"Make it a multiple of {2 * ranks}, or set MODEL.IUQ.EQUI.VIEWS extra."
            )
        return total // 2

    @classmethod
    def accumulation_caveat(cls, cfg: CfgNode) -> str:
        """Without capacity the memory is the batch, and a micro-batch sees only itself."""
        iuq = cfg.MODEL.IUQ
        if not iuq.INTER.ENABLED or iuq.MEMORY.CAPACITY > 0:
            return ""
        return (
            "MODEL.IUQ.MEMORY.CAPACITY 0 holds the pixels of one micro-batch of all processes, not of the whole step."
        )

    def iuq_state(self) -> dict[str, Tensor]:
        """The memory's contents, for the trainer's checkpoint; they are not part of the weights."""
        memory = self.iuq_criterion.memory
        return {} if memory is None else memory.state()

    def load_iuq_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `iuq_state` gave; nothing happens when there is no memory or nothing was saved."""
        if self.iuq_criterion.memory is not None and state:
            self.iuq_criterion.memory.load_state(state)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The segmenter's forward in evaluation; in training its losses, `loss_inter` and `loss_equi`."""
        if not self.training:
            return super().forward(batched_inputs)
        transforms, views = None, batched_inputs
        if self.iuq_criterion.equi is not None:
            with part("iuq"):
                batched_inputs = [_on_device(inputs, self.device) for inputs in batched_inputs]
                transforms = [self.sample_transform(inputs) for inputs in batched_inputs]
                transformed = [transform_inputs(i, g) for i, g in zip(batched_inputs, transforms, strict=True)]
            views = batched_inputs + transformed
        scene, losses = self.forward_scene(views)
        with part("iuq"):
            terms, stats = self.iuq_criterion(
                self, scene, transforms, num_originals=len(batched_inputs), iteration=self.iteration
            )
        if stats:
            values = torch.stack([value.float() for value in stats.values()]).tolist()  # one transfer to the host
            get_event_storage().put_scalars(**{f"iuq/{name}": value for name, value in zip(stats, values, strict=True)})
        return losses | terms

    def forward_scene(self, batched_inputs: list[dict[str, Any]]) -> tuple[Scene, dict[str, Tensor]]:
        """One forward pass in training: what the method sees of it, and the base losses, exactly as published."""
        done = self.training_pass(batched_inputs)
        memory = self.iuq_criterion.memory
        wanted = {} if memory is None else memory.context_shapes
        scene = Scene(
            queries=Queries(done.embeddings, done.image_index, done.target_index, done.context),
            features=done.features,
            stride=self.pixel_stride,
            offset=self.pixel_offset,
            masks=done.masks,
            image_sizes=done.image_sizes,
            instance_context={name: done.instance_context[name] for name in wanted},
            **_scene_ids(batched_inputs, self.device),
        )
        return scene, done.losses

    def sample_transform(self, inputs: Mapping[str, Any]) -> CropFlip:
        """g of one image, keyed to its sample: neither rank nor batch has a say in it."""
        seeds = [inputs["sample_seed"]] if "sample_seed" in inputs else None
        return CropFlip.sample(
            image_generator(seeds, 0, "crop_flip"),
            content_size(inputs),
            stride=self.pixel_stride,
            offset=self.pixel_offset,
            flip_prob=self.views.flip_prob,
            crop_range=(self.views.crop_min, self.views.crop_max),
        )


def build_criterion(cfg: CfgNode, memory_arguments: Mapping[str, Any]) -> IUQCriterion:
    """The criterion that MODEL.IUQ describes, with a memory if it has an inter-scene term.

    Args:
        cfg: the whole config.
        memory_arguments: of `IUQMetaArch.memory_arguments`.

    Raises:
        UserError: a value that the method does not know.
    """
    iuq, memory = cfg.MODEL.IUQ, cfg.MODEL.IUQ.MEMORY
    if memory.DTYPE not in _DTYPES:
        raise UserError(f'MODEL.IUQ.MEMORY.DTYPE is "{memory.DTYPE}"; it can be {" or ".join(_DTYPES)}.')
    kept = {"capacity": memory.CAPACITY, "shard": memory.SHARD, "check_period": memory.CHECK_PERIOD}
    try:
        return IUQCriterion(
            memory=PixelMemory(**memory_arguments, **kept, dtype=_DTYPES[memory.DTYPE]) if iuq.INTER.ENABLED else None,
            sampler=build_sampler(
                memory.SAMPLER,
                pixels_per_instance=memory.PIXELS_PER_INSTANCE,
                pixels_per_image=memory.PIXELS_PER_IMAGE,
            ),
            inter=settings_from(InterSceneLoss, iuq.INTER),
            equi=settings_from(EquivarianceLoss, iuq.EQUI) if iuq.EQUI.ENABLED else None,
            reduce_normalizer=cfg.MODEL.REDUCE_NORMALIZER,
        )
    except ValueError as error:
        raise UserError(f"MODEL.IUQ: {error}") from error


def settings_from(kind: type[Settings], section: CfgNode) -> Settings:
    """A dataclass of settings from the keys of a section that bear its fields' names, in capitals."""
    return kind(**{field.name: section[field.name.upper()] for field in fields(kind)})  # type: ignore[arg-type]


def transform_inputs(inputs: Mapping[str, Any], transform: CropFlip) -> dict[str, Any]:
    """g(I) with g's annotations: masks are cut, boxes recomputed from them, instances cut away dropped.

    Args:
        inputs: `image` (3, H, W) and `instances` with gt_classes and gt_masks; everything else is kept, but the view
            of a padded image is not padded.
        transform: g, for the content of the image.
    """
    instances: Instances = inputs["instances"]
    masks = transform.masks(instance_masks(instances))
    kept = masks.flatten(1).any(1)
    image = transform.image(inputs["image"])
    result = Instances((image.shape[1], image.shape[2]))
    result.gt_classes = instances.gt_classes[kept]
    result.gt_masks = BitMasks(masks[kept].contiguous())
    result.gt_boxes = Boxes(mask_boxes(result.gt_masks.tensor))
    kept_inputs = {key: value for key, value in inputs.items() if key != "content_size"}
    return {**kept_inputs, "image": image, "instances": result}


def _on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Image and annotations where the model is, so that g acts there and nothing is copied twice."""
    return {**inputs, "image": inputs["image"].to(device), "instances": inputs["instances"].to(device)}


def _scene_ids(batched_inputs: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """The fields of a `Scene` that identify images and key its random draws; ids default to the position.

    Raises:
        UserError: an image id that is not an integer.
    """
    ids = [inputs.get("image_id", index) for index, inputs in enumerate(batched_inputs)]
    if not all(isinstance(image_id, int) for image_id in ids):
        raise UserError(f"Instance-unique querying needs integer image ids from the data mapper, not {ids[:3]}.")
    keyed = all("sample_seed" in inputs for inputs in batched_inputs)
    ordered = all("sample_index" in inputs for inputs in batched_inputs)
    return {
        "image_ids": torch.tensor(ids, device=device),
        "sample_seeds": [inputs["sample_seed"] for inputs in batched_inputs] if keyed else None,
        "sample_indices": [inputs["sample_index"] for inputs in batched_inputs] if ordered else None,
    }
