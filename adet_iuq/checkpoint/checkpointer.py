"""Writes and loads checkpoints: atomically, safely, and with a verdict on files that do not fit.

engine/loop/state.py describes what a training's checkpoint holds beside the weights.
"""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from adet_iuq.checkpoint.compatibility import compare, evaluation_problem, listing, optional_keys, training_problem
from adet_iuq.checkpoint.files import read_checkpoint
from adet_iuq.checkpoint.modernize import modern_names
from adet_iuq.checkpoint.pretrained import check_pretrained, is_pretrained, read_pretrained, timm_names
from adet_iuq.checkpoint.resume import Checkpoint, read_checkpoint_to_resume
from adet_iuq.config.num_classes import all_num_classes
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)


class Checkpointer:
    """Writes a run's checkpoints, and loads weights into its model.

    Args:
        model: the model that gets the weights, not inside DistributedDataParallel.
        save_dir: the folder of the files; empty: nothing is written.
        class_counts: the config's numbers of classes. When a training starts from a file, tensors whose first dimension
            is such a number may differ from the file's.
        save_to_disk: whether this process writes; None: only the main process does.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        class_counts: Collection[int] = (),
        save_to_disk: bool | None = None,
    ) -> None:
        self.model, self.save_dir, self.class_counts = model, save_dir, class_counts
        self.save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk

    # Writing

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Writes `<name>.pth`, and names the file in `last_checkpoint`, from which a run is resumed.

        Args:
            name: the file's name without folder and suffix.
            content: the weights under "model", and everything else; only tensors, numbers, strings and containers of them.

        Raises:
            UserError: the file cannot be written; what was there before is untouched.
        """
        if self._write_file(name, content):
            replace_file(self._last_checkpoint, lambda file: file.write(f"{name}.pth".encode()))

    def save(self, name: str, **more: Any) -> None:
        """Writes the weights and `more` to `<name>.pth`. `last_checkpoint` stays, as no run can be resumed from this file.

        detectron2's hooks, such as its BestCheckpointer, call it by this name.
        """
        self._write_file(name, {"model": self.model.state_dict(), **more})

    def _write_file(self, name: str, content: dict[str, Any]) -> bool:
        """Writes a file on the process that writes; returns whether this process is one."""
        if not self.save_dir or not self.save_to_disk:
            return False
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        replace_file(path, lambda file: torch.save(content, file))
        return True

    @property
    def _last_checkpoint(self) -> Path:
        return Path(self.save_dir) / "last_checkpoint"

    # Loading

    def load(self, path: str, *, strict: bool = False) -> None:
        """Loads the weights of a file into the model.

        Args:
            path: a local path, anything that detectron2's path manager knows (`detectron2://`, https), or
                `pretrained://` and a name (pretrained.py); empty: nothing is loaded.
            strict: whether the file must hold every tensor of the model. If not, a training starts from it: tensors
                that are missing or belong to another number of classes are listed and keep their initialisation.

        Raises:
            UserError: the file is missing, damaged, made for another model, or holds values that are not finite.
        """
        if not path:
            logger.info("No weights to load: the model keeps its random initialisation.")
            return
        logger.info("Loading %s ...", path)
        content = read_pretrained(path) if is_pretrained(path) else read_checkpoint(_fetch(path))
        self._load_weights(content, path, strict)

    def load_last(self) -> Checkpoint | None:
        """Loads the weights of the last sound checkpoint in `save_dir`, reading it once.

        Every rank calls it, and all use the file that the main process finds.

        Returns:
            The checkpoint with everything else that it holds; None if there is no run to resume (nothing is loaded then).

        Raises:
            UserError: `load` would refuse the file.
        """
        there = comm.is_main_process() and self._last_checkpoint.is_file()
        name = comm.all_gather(self._last_checkpoint.read_text().strip() if there else None)[0]
        if name is None:
            return None
        found = read_checkpoint_to_resume(Path(self.save_dir) / name)
        logger.info("Loading %s ...", found.path)
        self._load_weights(found.content, str(found.path), strict=True)
        return found

    def _load_weights(self, content: dict[str, Any], path: str, strict: bool) -> None:
        own = named_tensors(content["model"], path)
        tensors = self._converted(own, content, path)
        file = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        model = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        comparison = compare(file, model, optional_keys(self.model), self.class_counts)
        comparison.sources = _sources(tensors, own)
        problem = evaluation_problem(comparison) if strict else training_problem(comparison)
        if problem is not None:
            wanted = "needs weights of exactly its architecture and classes" if strict else "cannot start from them"
            raise UserError(
                f"Checkpoint {path} does not fit: {problem}. {type(self.model).__name__} as configured {wanted}; check "
                "MODEL.WEIGHTS and --config-file, and NUM_CLASSES."
            )
        _ensure_finite(path, {name: tensors[name] for name in comparison.matched})
        _warn_of(f"{path} lacks these tensors, which keep their initialisation", comparison.missing)
        _warn_of(f"{path} is of another number of classes; these tensors keep their initialisation", comparison.resized)
        _warn_of(f"{path} also holds these tensors, which are left aside", comparison.in_file(comparison.unexpected))
        self.model.load_state_dict({name: tensors[name] for name in comparison.matched}, strict=False)
        logger.info("Loaded %d of the model's %d tensors.", len(comparison.matched), len(model))

    def _converted(self, own: dict[str, Tensor], content: dict[str, Any], path: str) -> dict[str, Tensor]:
        """The weights of a file, renamed from the file's `own` names to this model's."""
        tensors = timm_names(path, own) if is_pretrained(path) else own
        if content.get("matching_heuristics", False):
            caffe2 = content.get("__author__") == "Caffe2"
            try:
                tensors = align_and_update_state_dicts(self.model.state_dict(), tensors, c2_conversion=caffe2)
            except (ValueError, AssertionError) as error:
                raise UserError(f"The names in {path} cannot be matched with the model's: {error}") from error
        return modern_names(tensors, self.model.state_dict().keys())


def build_checkpointer(cfg: CfgNode, model: nn.Module) -> Checkpointer:
    """The checkpointer of a run: its files are in OUTPUT_DIR, its class counts are every NUM_CLASSES of the config.

    Raises:
        UserError: MODEL.WEIGHTS names weights of a package that do not fit the config.
    """
    check_pretrained(cfg, model.state_dict().keys())
    return Checkpointer(model, cfg.OUTPUT_DIR, class_counts=all_num_classes(cfg))


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


def _sources(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, tuple[str]]:
    """The file's own name of every tensor, whatever has renamed it; renaming keeps the tensor object."""
    names = {id(tensor): name for name, tensor in own.items()}
    return {name: (names[id(tensor)],) for name, tensor in tensors.items() if id(tensor) in names}


def _fetch(path: str) -> str:
    """A local path of the file, which is downloaded if necessary."""
    local = os.path.expanduser(path)
    if os.path.isfile(local) or "://" not in path:
        return local
    try:
        return str(PathManager.get_local_path(path))
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"Weights {path} cannot be downloaded: {reason}. Without internet access, fetch the file elsewhere and set "
            'MODEL.WEIGHTS to its path, or train from random weights (MODEL.WEIGHTS "", configs/Base-scratch.yaml).'
        ) from error


def _ensure_finite(path: str, tensors: dict[str, Tensor]) -> None:
    """Refuses the weights of a training that diverged: their predictions are meaningless, and AP 0 would not say why."""
    spoiled = {name: int((~tensor.isfinite()).sum()) for name, tensor in tensors.items()}
    broken = [f"{name} ({count} of {tensors[name].numel()} values)" for name, count in spoiled.items() if count]
    if broken:
        raise UserError(
            f"Checkpoint {path} holds values that are not finite (nan or inf), in {listing(broken)}. They come from a "
            "training that diverged; use an earlier checkpoint."
        )


def _warn_of(what: str, names: list[str]) -> None:
    if names:
        logger.warning("%s: %s", what, listing(names, limit=40))
