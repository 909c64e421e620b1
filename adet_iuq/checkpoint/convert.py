"""Converts other projects' weights to this one's and back, completely or not at all (tools/convert_weights.py)."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adet_iuq.checkpoint.checkpointer import named_tensors
from adet_iuq.checkpoint.compatibility import Comparison, bottom_up_prefix, compare, listing, optional_keys
from adet_iuq.checkpoint.files import read_checkpoint
from adet_iuq.checkpoint.formats import hf_mask2former_table, swin_table, timm_table
from adet_iuq.checkpoint.modernize import modern_names
from adet_iuq.checkpoint.renaming import NameTable, Renamed
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

# detectron2: the same names as here. swin: classifiers of Swin's authors. timm: timm's and torchvision's, only the
# backbone. hf: a folder or file of transformers' Mask2Former with Swin.
FORMATS = ("detectron2", "timm", "swin", "hf")

# The suffix of safetensors, and the files that a Hugging Face folder may hold.
_SAFETENSORS = ".safetensors"
_HF_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass
class Conversion:
    """Converted tensors, and the tensors that were not converted.

    Attributes:
        tensors: the tensors under their new names.
        problems: sentences, each with the names of tensors that prevent the conversion.
        left_out: names, of the file or of the model, that have no counterpart and need none.
    """

    tensors: dict[str, Tensor]
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def raise_if_incomplete(self, what: str) -> None:
        """Refuses an incomplete conversion.

        Args:
            what: the file, for the message.

        Raises:
            UserError: there are problems; it names all of their tensors.
        """
        if self.problems:
            raise UserError(f"{what} was not converted, nothing was written:\n" + "\n".join(self.problems))


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a file (.pkl, .pth, .safetensors) or of a Hugging Face folder, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or no file of weights.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = [place / name for name in _HF_FILES if (place / name).is_file()]
        if not found:
            raise UserError(f"Folder {path} has none of {', '.join(_HF_FILES)}; name the file of weights.")
        place = found[0]
    if place.suffix != _SAFETENSORS:
        return named_tensors(read_checkpoint(str(place))["model"], path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(place))
    except (OSError, SafetensorError) as error:
        raise UserError(f"Checkpoint {path} cannot be read ({error}).") from error


def to_ours(tensors: Mapping[str, Tensor], model: nn.Module, source: str) -> Conversion:
    """Foreign tensors under the names of `model`.

    A file of a backbone must fill the model's bottom-up network except Swin's output norms, which classifiers lack. Any
    other file must fill the whole model.

    Args:
        tensors: the result of `read_weights`.
        model: the model that the tensors are for.
        source: one of FORMATS.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    table = _table(source, shapes)
    renamed = Renamed(modern_names(tensors, shapes)) if table is None else table.to_ours(tensors)
    placed = {name: tuple(tensor.shape) for name, tensor in renamed.tensors.items()}
    comparison = compare(placed, shapes, optional_keys(model))
    comparison.sources = renamed.sources
    prefix = bottom_up_prefix(shapes)
    if comparison.matched and all(name.startswith(prefix) for name in comparison.matched):
        needed = [
            name for name in comparison.missing if name.startswith(prefix) and not name.startswith(prefix + "norm")
        ]
    else:
        needed = comparison.missing
    kept = {name: renamed.tensors[name] for name in comparison.matched}
    # From the file: classifiers, and what `compare` calls inessential. From the model: what a backbone's file lacks.
    dropped = [name for name in placed if name not in {*kept, *comparison.unexpected, *comparison.shapes}]
    left_out = [
        *renamed.ignored,
        *comparison.in_file(dropped),
        *(name for name in comparison.missing if name not in needed),
    ]
    return Conversion(kept, _problems(comparison, needed, renamed.unplaced), left_out)


def from_ours(tensors: Mapping[str, Tensor], model: nn.Module, target: str) -> Conversion:
    """All tensors of a model, under foreign names.

    Args:
        tensors: the tensors of a checkpoint of this project.
        model: the model that they belong to.
        target: one of FORMATS; "timm" and "swin" take the backbone without output norms and leave out the rest.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    comparison = compare(ours, shapes, optional_keys(model))
    problems = _problems(comparison, comparison.missing, [])
    table = _table(target, shapes)
    if table is None:
        return Conversion(dict(tensors), problems)
    renamed = table.from_ours(tensors)
    if renamed.unplaced:
        problems.append(f"Without a counterpart in the format {target}: {_all(renamed.unplaced)}.")
    return Conversion(renamed.tensors, problems, table.ours_only(tensors))


def write_weights(tensors: Mapping[str, Tensor], path: str) -> None:
    """Writes by suffix: .safetensors; .pkl as detectron2 does, with arrays of numpy; otherwise as torch, under "model".

    Raises:
        UserError: the file cannot be written.
    """
    place = Path(path)
    content = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    if place.suffix == _SAFETENSORS:
        from safetensors.torch import save

        replace_file(place, lambda file: file.write(save(content, metadata={"format": "pt"})))
    elif place.suffix == ".pkl":
        arrays = {name: tensor.numpy() for name, tensor in content.items()}
        written = {"model": arrays, "__author__": "adet_iuq"}
        replace_file(place, lambda file: pickle.dump(written, file))
    else:
        replace_file(place, lambda file: torch.save({"model": content}, file))


def _table(name: str, model_names: Mapping[str, Any]) -> NameTable | None:
    """The table for a format's names; None if they are the same as here."""
    prefix = bottom_up_prefix(model_names)
    if name == "timm":
        return timm_table(prefix, model_names)
    if name == "detectron2":
        return None
    if name not in FORMATS:
        raise UserError(f"There is no format {name}; known are {', '.join(FORMATS)}.")
    return swin_table(prefix) if name == "swin" else hf_mask2former_table(prefix)


def _problems(comparison: Comparison, needed: list[str], unplaced: list[str]) -> list[str]:
    unknown = [*unplaced, *comparison.in_file(comparison.unexpected)]
    wrong = [*comparison.resized, *comparison.mismatched]
    result = []
    if unknown:
        result.append(f"In the file, without a place in the model: {_all(unknown)}.")
    if wrong:
        result.append(f"Of another shape: {listing(wrong, comparison.shapes, limit=len(wrong))}.")
    if needed:
        result.append(f"In the model, missing in the file: {_all(needed)}.")
    if not comparison.matched:
        result.append("Not one tensor of the file belongs to the model.")
    return result


def _all(names: list[str]) -> str:
    return f"{len(names)} tensors ({', '.join(names)})" if len(names) > 1 else names[0]
