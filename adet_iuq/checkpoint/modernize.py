"""Renames tensors of older or partial files to the model's names, if the model shows which names are meant."""

from collections.abc import Collection, Mapping

from torch import Tensor

from adet_iuq.checkpoint.compatibility import bottom_up_prefix

_HEAD = "sem_seg_head."


def modern_names(tensors: Mapping[str, Tensor], model: Collection[str]) -> dict[str, Tensor]:
    """A file's tensors, renamed if the old name is not one of the model's and the new name is.

    * Mask2Former before its head's version 2: the pixel decoder stood in the head itself, and `query_feat` was called
      `static_query` (docs/parity/mask2former.md, "Model").
    * Files of a bare backbone, such as those of Swin's authors: they get the prefix with which most names are the model's.
    """
    result = {_renamed(name, model, tensors): tensor for name, tensor in tensors.items()}
    bottom_up = bottom_up_prefix(model)
    known = {prefix: sum(prefix + name in model for name in result) for prefix in ("", bottom_up, bottom_up + "model.")}
    prefix = max(known, key=lambda one: known[one])
    return {_prefixed(name, prefix, model, result): tensor for name, tensor in result.items()}


def _prefixed(name: str, prefix: str, model: Collection[str], file: Collection[str]) -> str:
    new = prefix + name
    return new if new in model and new not in file else name


def _renamed(name: str, model: Collection[str], file: Collection[str]) -> str:
    new = name.replace("static_query", "query_feat")
    if new.startswith(_HEAD) and not new.startswith((_HEAD + "predictor.", _HEAD + "pixel_decoder.")):
        new = f"{_HEAD}pixel_decoder.{new.removeprefix(_HEAD)}"
    return new if name not in model and new in model and new not in file else name
