"""Reads checkpoint files. Nothing in a file is executed."""

import collections
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adet_iuq.checkpoint.hashes import hash_problem
from adet_iuq.errors import UserError

# The functions that pickle numpy's arrays and scalars, by module (which numpy 2 renamed) and name.
_NUMPY_FUNCTIONS = {
    "multiarray._reconstruct": np.zeros(0).__reduce__()[0],
    "multiarray.scalar": np.float64(0).__reduce__()[0],
    "numeric._frombuffer": np.zeros(0).__reduce_ex__(5)[0],
}
_NUMPY_NAMES = {f"numpy.{core}.{name}": f for core in ("core", "_core") for name, f in _NUMPY_FUNCTIONS.items()}
_DTYPE_CLASSES = {f"numpy.dtypes.{name}": getattr(np.dtypes, name) for name in np.dtypes.__all__}

_ALLOWED: dict[str, Any] = {
    **_NUMPY_NAMES,
    **_DTYPE_CLASSES,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "collections.OrderedDict": collections.OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.bytearray": bytearray,
    # Python 2's names of the same objects, and the form of bytes in old protocols.
    "__builtin__.set": set,
    "__builtin__.frozenset": frozenset,
    "_codecs.encode": lambda text, encoding="utf-8": str(text).encode(encoding),
}


class _NumpyUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers; refuses everything else, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The object that a pickle names, if it is in the list."""
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is neither numpy nor a container") from None


class DamagedCheckpointError(UserError):
    """A checkpoint is missing, cut off or damaged; another one may be sound."""


def read_checkpoint(path: str) -> dict[str, Any]:
    """The content of a checkpoint file on the CPU, with the weights under "model".

    * `.pkl`: detectron2's and Detectron's model zoo, read by an unpickler that knows only numpy.
    * all others: `torch.save`d files, read with `weights_only=True`; a bare state dict is wrapped, and weights under
      "state_dict" or "model_state" (pycls) are found.

    Raises:
        DamagedCheckpointError: the file is missing or damaged, does not have the hash in its name, or holds objects
            other than numbers, arrays, tensors and containers.
        UserError: the file holds no dict.
    """
    if not os.path.isfile(path):
        raise DamagedCheckpointError(f"Checkpoint {path} does not exist. Check MODEL.WEIGHTS.")
    problem = hash_problem(Path(path))
    if problem is not None:
        raise DamagedCheckpointError(
            f"Checkpoint {path} is damaged, or another file: {problem}. Download it again; if the name means "
            "something else, rename the file."
        )
    try:
        content = _read_pickle(path) if path.endswith(".pkl") else _read_torch(path)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise DamagedCheckpointError(
            f"Checkpoint {path} was not loaded: {reason}. It is damaged, or it holds more than weights; such files could "
            "run code. Save its tensors alone with torch.save and load that file."
        ) from error
    except Exception as error:  # a damaged byte can raise any of the readers' own errors
        raise DamagedCheckpointError(
            f"Checkpoint {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."
            " It is cut off or damaged: copy or download it again, or use an earlier checkpoint."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"Checkpoint {path} holds a {type(content).__name__} where a dict of weights is expected.")
    return _with_model_key(content, path)


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        return _NumpyUnpickler(io.BytesIO(file.read()), encoding="latin1").load()


def _read_torch(path: str) -> Any:
    functions = [(function, name) for name, function in _NUMPY_NAMES.items()]
    allowed: list[Any] = [np.ndarray, np.dtype, *_DTYPE_CLASSES.values(), *functions]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def _with_model_key(content: dict[str, Any], path: str) -> dict[str, Any]:
    if path.endswith(".pkl") and not ("model" in content and "__author__" in content):
        # Caffe2's Detectron: files of detection models have the key "blobs", those of ImageNet models do not.
        blobs = content.get("blobs", content)
        weights = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
    if isinstance(content.get("model_state"), dict):
        return {"model": content["model_state"], "__author__": "pycls", "matching_heuristics": True}
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            return {**{name: value for name, value in content.items() if name != key}, "model": content[key]}
    return {"model": content}
