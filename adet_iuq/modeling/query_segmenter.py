"""What a segmenter offers to be trained with instance-unique querying, and the one forward pass that knows the method.

Shapes: see `adet_iuq.iuq.structures`.
"""

from dataclasses import fields
from typing import Any, Protocol, TypeVar

import torch
from detectron2.config import CfgNode
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

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Settings = TypeVar("Settings")


def settings_from(cls: type[Settings], node: CfgNode) -> Settings:
    """A dataclass of settings, each field filled with the key of its name: `chunk_bytes` is `node.CHUNK_BYTES`."""
    return cls(**{field.name: node[field.name.upper()] for field in fields(cls)})  # type: ignore[arg-type]


class QuerySegmenter(Protocol):
    """All that a new segmenter offers."""

    pixel_dim: int

    def forward_scene(self, batched_inputs: list[dict[str, Any]]) -> tuple[Scene, dict[str, Tensor]]:
        """One forward pass in training: the scene and the base losses."""
        ...

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """<q_n, i> of Eq. 4 for all pairs: (Q, P) logits."""
        ...

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """Each query on its own image's map, (B, D, Hf, Wf) to (Q, Hf, Wf) logits."""
        ...

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The base L_mask of logits (Q, Hf, Wf), cells outside `valid` (B, Hf, Wf) left out; zero without any query.

        Called on every rank in each step, so that it may reduce its normaliser (MODEL.REDUCE_NORMALIZER).
        """
        ...


class IUQMetaArch:
    """Mixin that adds the losses: `class CondInstIUQ(IUQMetaArch, CondInst)`. In evaluation it is the base model.

    A subclass offers the methods of `QuerySegmenter`, sets the first two attributes, then calls `init_iuq`.
    """

    pixel_stride: int  # of the dense map, for crops that cells of both views share
    pixel_offset: float  # Scene.offset
    bytes_per_pair: int = 0  # see `adet_iuq.iuq.Retriever`

    iuq_criterion: IUQCriterion
    crop_flip: dict[str, Any]
    iteration: int = 0

    def init_iuq(self, cfg: CfgNode) -> None:
        """Builds the criterion from `MODEL.IUQ`; called at the end of the constructor.

        Raises:
            UserError: a value that the method does not know.
        """
        iuq = cfg.MODEL.IUQ
        if iuq.EQUI.VIEWS not in ("paired", "extra"):
            raise UserError(f'MODEL.IUQ.EQUI.VIEWS is "{iuq.EQUI.VIEWS}"; it can be "paired" or "extra".')
        if not 0 < iuq.EQUI.CROP_MIN <= iuq.EQUI.CROP_MAX <= 1:
            raise UserError("MODEL.IUQ.EQUI needs 0 < CROP_MIN <= CROP_MAX <= 1.")
        self.crop_flip = {
            "stride": self.pixel_stride,
            "offset": self.pixel_offset,
            "flip_prob": iuq.EQUI.FLIP_PROB,
            "crop_range": (iuq.EQUI.CROP_MIN, iuq.EQUI.CROP_MAX),
        }
        try:
            self.iuq_criterion = self._criterion(cfg)
        except ValueError as error:
            raise UserError(f"MODEL.IUQ: {error}") from error

    def _criterion(self, cfg: CfgNode) -> IUQCriterion:
        inter, memory, equi = cfg.MODEL.IUQ.INTER, cfg.MODEL.IUQ.MEMORY, cfg.MODEL.IUQ.EQUI
        sampler = build_sampler(
            memory.SAMPLER, pixels_per_instance=memory.PIXELS_PER_INSTANCE, pixels_per_image=memory.PIXELS_PER_IMAGE
        )
        return IUQCriterion(
            memory=self.build_memory(cfg) if inter.ENABLED else None,
            sampler=sampler,
            inter=settings_from(InterSceneLoss, inter),
            equi=settings_from(EquivarianceLoss, equi) if equi.ENABLED else None,
            reduce_normalizer=cfg.MODEL.REDUCE_NORMALIZER,
        )

    def build_memory(self, cfg: CfgNode) -> PixelMemory:
        """The memory of this segmenter's pixels; those with extras per pixel override it."""
        return self._memory(cfg)

    def _memory(self, cfg: CfgNode, context: dict[str, tuple[int, ...]] | None = None) -> PixelMemory:
        memory = cfg.MODEL.IUQ.MEMORY
        if memory.DTYPE not in _DTYPES:
            raise UserError(f'MODEL.IUQ.MEMORY.DTYPE is "{memory.DTYPE}"; it can be {" or ".join(_DTYPES)}.')
        return PixelMemory(
            self.pixel_dim,  # type: ignore[attr-defined]
            capacity=memory.CAPACITY,
            dtype=_DTYPES[memory.DTYPE],
            context=context,
            shard=memory.SHARD,
            check_period=memory.CHECK_PERIOD,
        )

    @classmethod
    def images_per_batch(cls, cfg: CfgNode) -> int:
        """Images that one iteration reads over all ranks: half of IMS_PER_BATCH when views are paired.

        Raises:
            UserError: paired views and an odd number of views per rank.
        """
        total, ranks = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
        if not cfg.MODEL.IUQ.EQUI.ENABLED or cfg.MODEL.IUQ.EQUI.VIEWS != "paired":
            return total
        if total % (2 * ranks):
            raise UserError(
                f"SOLVER.IMS_PER_BATCH {total} on {ranks} process(es) does not give every process whole pairs of views. "
                f"Make it a multiple of {2 * ranks}, or set MODEL.IUQ.EQUI.VIEWS extra."
            )
        return total // 2

    def set_iteration(self, iteration: int) -> None:
        """Tells the model the training iteration, for the ramp of the inter-scene loss."""
        self.iteration = iteration

    def iuq_state(self) -> dict[str, Tensor]:
        """The memory's contents, for the trainer's checkpoint; they are not part of the weights.

        Every rank calls it; what rank 0 gets is complete.
        """
        memory = self.iuq_criterion.memory
        return {} if memory is None else memory.state()

    def load_iuq_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `iuq_state` gave; nothing happens when there is no memory or nothing was saved."""
        if self.iuq_criterion.memory is not None and state:
            self.iuq_criterion.memory.load_state(state)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The base model's forward in evaluation; in training its losses, `loss_inter` and `loss_equi`."""
        if not self.training:  # type: ignore[attr-defined]
            return super().forward(batched_inputs)  # type: ignore[misc]
        transforms = None
        views = batched_inputs
        if self.iuq_criterion.equi is not None:
            with part("iuq"):
                batched_inputs = [_on_device(inputs, self.device) for inputs in batched_inputs]  # type: ignore[attr-defined]
                transforms = [self._sample_transform(inputs) for inputs in batched_inputs]
                transformed = [transform_inputs(i, g) for i, g in zip(batched_inputs, transforms, strict=True)]
            views = batched_inputs + transformed
        scene, losses = self.forward_scene(views)  # type: ignore[attr-defined]
        with part("iuq"):
            terms, stats = self.iuq_criterion(
                self, scene, transforms, num_originals=len(batched_inputs), iteration=self.iteration
            )
        if stats:
            values = torch.stack([value.float() for value in stats.values()]).tolist()  # one transfer to the host
            get_event_storage().put_scalars(**{f"iuq/{name}": value for name, value in zip(stats, values, strict=True)})
        return losses | terms

    def _sample_transform(self, inputs: dict[str, Any]) -> CropFlip:
        """g of one image, keyed to its sample: neither rank nor batch has a say in it."""
        seeds = [inputs["sample_seed"]] if "sample_seed" in inputs else None
        generator = image_generator(seeds, 0, "crop_flip")
        return CropFlip.sample(generator, content_size(inputs), **self.crop_flip)


def content_size(inputs: dict[str, Any]) -> tuple[int, int]:
    """(h, w) that the scene fills, from the top left corner: `content_size` of an image that the mapper padded."""
    height, width = inputs.get("content_size", inputs["image"].shape[-2:])
    return int(height), int(width)


def transform_inputs(inputs: dict[str, Any], transform: CropFlip) -> dict[str, Any]:
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


def scene_ids(batched_inputs: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
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
