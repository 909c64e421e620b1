"""Adds instance-unique querying to any segmenter; its forward pass is the only one that knows the method.

Shapes: see `adet_iuq.iuq.structures`.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.iuq import CropFlip, IUQCriterion, Pixels, Queries, Scene, compare_gradients, masks_at_cells
from adet_iuq.modeling.iuq_settings import build_criterion, settings_from
from adet_iuq.modeling.parts import part
from adet_iuq.modeling.segmenter import Segmenter, TrainingPass
from adet_iuq.modeling.views import Views, on_device, transform_inputs

# What IMS_PER_BATCH counts. "paired": views, of which each image has two; "extra": images.
_VIEWS = ("paired", "extra")


class IUQMetaArch(Segmenter):
    """Stands before a segmenter: `class CondInstIUQ(IUQMetaArch, CondInst)`. In evaluation it is that segmenter.

    A subclass implements `retrieve`, `retrieve_map` and `mask_loss`, and `memory_arguments` describes its pixels.
    """

    iuq_criterion: IUQCriterion

    @configurable
    def __init__(self, *, criterion: IUQCriterion, views: Views, gradient_ratio_period: int = 0, **base: Any) -> None:
        """
        Args:
            criterion: computes both losses and holds the memory.
            views: how the second view of an image is drawn, if the criterion has an equivariance term.
            gradient_ratio_period: the iterations between two logs of the inter-scene term's strength; 0: never.
            base: the arguments of the segmenter.

        Raises:
            UserError: the memory was built for pixels that differ from the segmenter's.
        """
        super().__init__(**base)
        self.iuq_criterion, self.views, self.gradient_ratio_period = criterion, views, gradient_ratio_period
        memory = criterion.memory
        if memory is not None and memory.features.shape[1] != self.pixel_dim:
            raise UserError(
                f"The pixel memory was built for {memory.features.shape[1]} numbers per pixel, but {type(self).__name__} "
                f"has pixels of {self.pixel_dim}. Give PixelMemory that number (from a config: memory_arguments)."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The segmenter's arguments, and the criterion and views of MODEL.IUQ.

        Raises:
            UserError: the method does not know a value.
        """
        base = super().from_config(cfg)
        if cfg.MODEL.IUQ.EQUI.VIEWS not in _VIEWS:
            raise UserError(f'MODEL.IUQ.EQUI.VIEWS is "{cfg.MODEL.IUQ.EQUI.VIEWS}"; it can be {" or ".join(_VIEWS)}.')
        views = settings_from(Views, cfg.MODEL.IUQ.EQUI, "MODEL.IUQ.EQUI")
        criterion = build_criterion(cfg, cls.memory_arguments(cfg, base), cls.mask_loss_factor(cfg, base))
        period = cfg.GUARD.GRADIENT_RATIO_PERIOD
        return {**base, "criterion": criterion, "views": views, "gradient_ratio_period": period}

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `PixelMemory` that only the segmenter knows: `pixel_dim`, and `context` if pixels have more.

        Args:
            cfg: the whole config.
            base: the arguments of the segmenter's constructor.
        """
        return {"pixel_dim": base.get("pixel_dim", cls.pixel_dim)}

    @classmethod
    def mask_loss_factor(cls, cfg: CfgNode, base: Mapping[str, Any]) -> float:
        """The weight of the base's mask loss, as far as `mask_loss` leaves it out (MODEL.IUQ.EQUI.RELATIVE_TO_BASE).

        Args:
            cfg: the whole config.
            base: the arguments of the segmenter's constructor.
        """
        return 1.0

    def mask_cells(self, masks: Tensor, map_size: tuple[int, int]) -> Tensor:
        """The cells of the dense map that the base's mask loss puts inside an instance; their pixels may be stored.

        Args:
            masks: (K, H, W) bool, the masks of one image.
            map_size: (Hf, Wf), the size of the dense map.

        Returns:
            (K, Hf, Wf) bool; by default the masks at the supervised pixels.
        """
        return masks_at_cells(masks, self.pixel_stride, self.pixel_offset, map_size)

    def base_mask_loss(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted mask loss of the queries that a training pass returns, taken from its losses."""
        return losses[self.mask_loss_name]

    @abstractmethod
    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """The logits <q_n, i> of Eq. 4 for all pairs: (Q, P)."""

    @abstractmethod
    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """The logits of each query on its own image's map: from (B, D, Hf, Wf) to (Q, Hf, Wf)."""

    @abstractmethod
    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The base L_mask of logits (Q, Hf, Wf) without the cells outside `valid` (B, Hf, Wf); zero without any query.

        Every rank calls it in each step, so it may reduce its normaliser over ranks (MODEL.REDUCE_NORMALIZER).
        """

    @classmethod
    def images_per_batch(cls, cfg: CfgNode) -> int:
        """The images that one iteration reads over all ranks: half of IMS_PER_BATCH if views are paired.

        Raises:
            UserError: views are paired and a rank would get an odd number of them.
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
        """With capacity 0 the memory is the batch, and a micro-batch sees only itself; this warns about that."""
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
        """Restores what `iuq_state` returned. It does nothing if there is no memory or nothing was saved."""
        if self.iuq_criterion.memory is not None and state:
            self.iuq_criterion.memory.load_state(state)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The segmenter's forward pass in evaluation; in training its losses, `loss_inter` and `loss_equi`."""
        if not self.training:
            return super().forward(batched_inputs)
        transforms, views = None, batched_inputs
        if self.iuq_criterion.equi is not None:
            with part("iuq"):
                batched_inputs = [on_device(inputs, self.device) for inputs in batched_inputs]
                transforms = [self._sample_transform(inputs) for inputs in batched_inputs]
                transformed = [transform_inputs(i, g) for i, g in zip(batched_inputs, transforms, strict=True)]
            views = batched_inputs + transformed
        done = self.training_pass(views)
        with part("iuq"):
            terms, stats = self.iuq_criterion(
                self,
                self._scene(done, views),
                transforms,
                num_originals=len(batched_inputs),
                iteration=self.iteration,
            )
            strength = {}
            if self.gradient_ratio_period > 0 and self.iteration % self.gradient_ratio_period == 0:
                strength = self._strength(done, terms)
        _log(stats)
        # Twenty of these may be the whole training, so writers must not take a median over them.
        _log(strength, smoothing_hint=False)
        return done.losses | terms

    def forward_scene(self, batched_inputs: list[dict[str, Any]]) -> tuple[Scene, dict[str, Tensor]]:
        """One forward pass in training: the scene that the method sees, and the base losses exactly as published."""
        done = self.training_pass(batched_inputs)
        return self._scene(done, batched_inputs), done.losses

    def _strength(self, done: TrainingPass, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The result of `compare_gradients` for the inter-scene term and the base's mask loss, on the queries."""
        if "loss_inter" not in terms or not torch.is_grad_enabled():
            return {}
        sources = done.query_sources or [done.embeddings]
        return compare_gradients(terms["loss_inter"], self.base_mask_loss(done.losses), sources)

    def _scene(self, done: TrainingPass, batched_inputs: list[dict[str, Any]]) -> Scene:
        """The scene of a training pass, which is all that the method sees of it."""
        memory = self.iuq_criterion.memory
        # Without a memory pixels keep the whole context, because measurements on held-out images ask queries about them.
        wanted = done.instance_context if memory is None else memory.context_shapes
        if not done.instance_context.keys() >= wanted.keys():
            raise UserError(
                f"The pixel memory keeps {sorted(wanted)} of every pixel's instance, but a training pass of "
                f"{type(self).__name__} gives only {sorted(done.instance_context)} (instance_context)."
            )
        return Scene(
            queries=Queries(done.embeddings, done.image_index, done.target_index, done.context),
            features=done.features,
            stride=self.pixel_stride,
            offset=self.pixel_offset,
            nominal_offset=self.pixel_nominal_offset,
            masks=done.masks,
            image_sizes=done.image_sizes,
            instance_context={name: done.instance_context[name] for name in wanted},
            mask_cells=self.mask_cells,
            **_scene_ids(batched_inputs, self.device, needed=memory is not None),
        )

    def _sample_transform(self, inputs: Mapping[str, Any]) -> CropFlip:
        return self.views.draw(inputs, self.pixel_stride, self.pixel_offset)


def _log(values: Mapping[str, Tensor], smoothing_hint: bool = True) -> None:
    """Puts scalars into the current event storage below `iuq/`, with one transfer to the host."""
    if values:
        numbers = torch.stack([value.float() for value in values.values()]).tolist()
        named = {f"iuq/{name}": number for name, number in zip(values, numbers, strict=True)}
        get_event_storage().put_scalars(smoothing_hint=smoothing_hint, **named)


def _scene_ids(batched_inputs: list[dict[str, Any]], device: torch.device, needed: bool) -> dict[str, Any]:
    """The fields of a `Scene` that identify images and key its random draws; missing ids are -1.

    Args:
        batched_inputs: all views.
        device: the device of the ids.
        needed: whether an image without an id is an error. Nothing can replace the id: the memory keeps pixels over
            iterations and processes, so a position in the batch would confuse images, or an image with its own view.

    Raises:
        UserError: an image id is missing or not an integer.
    """
    ids = [inputs.get("image_id", -1) for inputs in batched_inputs]
    if needed and not all("image_id" in inputs for inputs in batched_inputs):
        raise UserError(
            "The inter-scene loss tells images apart by their ids, but the data mapper gives some images no `image_id` (it "
            f"gives {', '.join(sorted(batched_inputs[0]))}). Let it add the integer image_id of the data set's record, the "
            "same whenever that image comes, or switch the loss off (MODEL.IUQ.INTER.ENABLED False)."
        )
    if not all(isinstance(image_id, int) for image_id in ids):
        raise UserError(f"Instance-unique querying needs integer image ids from the data mapper, not {ids[:3]}.")
    keyed = all("sample_seed" in inputs for inputs in batched_inputs)
    ordered = all("sample_index" in inputs for inputs in batched_inputs)
    return {
        "image_ids": torch.tensor(ids, device=device),
        "sample_seeds": [inputs["sample_seed"] for inputs in batched_inputs] if keyed else None,
        "sample_indices": [inputs["sample_index"] for inputs in batched_inputs] if ordered else None,
    }
