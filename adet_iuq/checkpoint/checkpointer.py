"""detectron2's checkpointer with atomic writing, safe reading, and a verdict on files that do not fit."""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from adet_iuq.checkpoint.compatibility import compare, evaluation_problem, listing, optional_keys, training_problem
from adet_iuq.checkpoint.files import read_checkpoint
from adet_iuq.checkpoint.modernize import modern_names
from adet_iuq.checkpoint.resume import checkpoint_to_resume
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """Saves and loads weights, and the state of what is given as `checkpointables`.

    Args:
        model: also inside DistributedDataParallel.
        save_dir: folder of the files.
        class_counts: the config's numbers of classes: tensors with such a first dimension may differ from a file's when
            a training starts from it.
        save_to_disk: None: on the main process only.
        checkpointables: objects with `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        class_counts: Collection[int] = (),
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.class_counts = class_counts

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes weights and checkpointables to `<name>.pth` and names the file in `last_checkpoint`.

        Args:
            name: without folder and suffix.
            kwargs: more to save; tensors, numbers, strings and containers of them only.

        Raises:
            UserError: it cannot be written; what was there before is untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: thing.state_dict() for key, thing in self.checkpointables.items()}
        self._write(name, {"model": self.model.state_dict(), **states, **kwargs})
        self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str) -> None:
        """Writes the weights alone to `<name>.pth`; `last_checkpoint` stays."""
        if self.save_dir and self.save_to_disk:
            self._write(name, {"model": self.model.state_dict()})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        replace_file(path, lambda file: torch.save(content, file))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the file that a resume starts from."""
        path = Path(self.save_dir) / "last_checkpoint"
        replace_file(path, lambda file: file.write(last_filename_basename.encode()))

    def has_checkpoint(self) -> bool:
        """Whether there is a run to resume; every rank calls it, and what the main process sees counts for all."""
        return bool(comm.all_gather(super().has_checkpoint())[0])

    def load(self, path: str, checkpointables: list[str] | None = None, *, strict: bool = False) -> dict[str, Any]:
        """Loads weights into the model, and states into the checkpointables.

        Args:
            path: local path, or anything detectron2's path manager knows (`detectron2://`, https); empty: nothing is
                loaded.
            checkpointables: names of those to load; None: all.
            strict: the file must hold every tensor of the model. Else the training starts from it: what is missing, or
                belongs to another number of classes, is listed and keeps its initialisation.

        Returns:
            What else the file holds.

        Raises:
            UserError: the file is missing, damaged, or of another model.
        """
        if not path:
            logger.info("No weights to load: the model keeps its random initialisation.")
            return {}
        logger.info("Loading %s ...", path)
        checkpoint = read_checkpoint(self._fetch(path))
        self._load_weights(self._converted(checkpoint, path), path, strict)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in checkpoint:
                raise UserError(
                    f"Checkpoint {path} holds weights but no state of a {key}: a run cannot be resumed from it. Load it as "
                    "MODEL.WEIGHTS, without --resume."
                )
            self.checkpointables[key].load_state_dict(checkpoint.pop(key))
        return checkpoint

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """The last sound checkpoint with all states if `resume` and there is one, else the weights of `path`.

        Raises:
            UserError: as `load`.
        """
        if resume and self.has_checkpoint():
            return self.load(str(checkpoint_to_resume(Path(self.get_checkpoint_file()))), strict=True)
        return self.load(path, checkpointables=[])

    def _fetch(self, path: str) -> str:
        """A local path of the file, downloaded where need be."""
        local = os.path.expanduser(path)
        if os.path.isfile(local) or "://" not in path:
            return local
        try:
            return str(self.path_manager.get_local_path(path))
        except Exception as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            raise UserError(
                f"Weights {path} cannot be downloaded: {reason}. Without internet access, fetch the file elsewhere and set "
                'MODEL.WEIGHTS to its path, or train from random weights (MODEL.WEIGHTS "", configs/Base-scratch.yaml).'
            ) from error

    def _converted(self, checkpoint: dict[str, Any], path: str) -> dict[str, Tensor]:
        """The weights of a file under this model's names."""
        tensors = named_tensors(checkpoint.pop("model"), path)
        if checkpoint.get("matching_heuristics", False):
            caffe2 = checkpoint.get("__author__") == "Caffe2"
            try:
                tensors = align_and_update_state_dicts(self.model.state_dict(), tensors, c2_conversion=caffe2)
            except (ValueError, AssertionError) as error:
                raise UserError(f"The names in {path} cannot be matched with the model's: {error}") from error
        return modern_names(tensors, self.model.state_dict().keys())

    def _load_weights(self, tensors: dict[str, Tensor], path: str, strict: bool) -> None:
        file = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        model = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        comparison = compare(file, model, optional_keys(self.model), self.class_counts)
        problem = evaluation_problem(comparison) if strict else training_problem(comparison)
        if problem is not None:
            wanted = "needs weights of exactly its architecture and classes" if strict else "cannot start from them"
            raise UserError(
                f"Checkpoint {path} does not fit: {problem}. {type(self.model).__name__} as configured {wanted}; check "
                "MODEL.WEIGHTS and --config-file, and NUM_CLASSES."
            )
        _warn_of(f"{path} lacks these tensors, which keep their initialisation", comparison.missing)
        _warn_of(f"{path} is of another number of classes; these tensors keep their initialisation", comparison.resized)
        _warn_of(f"{path} also holds these tensors, which are left aside", comparison.unexpected)
        self.model.load_state_dict({name: tensors[name] for name in comparison.matched}, strict=False)
        logger.info("Loaded %d of the model's %d tensors.", len(comparison.matched), len(model))


def named_tensors(weights: dict[str, Any], path: str) -> dict[str, Tensor]:
    """The entries of a file's "model" as tensors, without the prefix of DistributedDataParallel.

    Raises:
        UserError: an entry is no array.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        if not isinstance(value, np.ndarray | Tensor):
            raise UserError(
                f"Checkpoint {path}: its entry '{name}' is a {type(value).__name__}, not a tensor. It is no file of weights."
            )
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _warn_of(what: str, names: list[str]) -> None:
    if names:
        logger.warning("%s: %s", what, listing(names, limit=40))


def build_checkpointer(cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> Checkpointer:
    """The checkpointer of a run: files in OUTPUT_DIR, class counts from every NUM_CLASSES of the config."""
    return Checkpointer(model, cfg.OUTPUT_DIR, class_counts=_class_counts(cfg), **checkpointables)


def _class_counts(node: CfgNode) -> frozenset[int]:
    counts: frozenset[int] = frozenset()
    for name, value in node.items():
        if isinstance(value, CfgNode):
            counts |= _class_counts(value)
        elif name == "NUM_CLASSES":
            counts |= {int(value)}
    return counts
