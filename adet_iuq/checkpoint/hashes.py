"""Compares a file with the hash in its name: published files carry the first digits of their hash there."""

import hashlib
import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

# torch hub's convention, which timm, torchvision and OpenMMLab follow: "resnet50-19c8e357.pth" is the start of its sha256.
_HUB = re.compile(r".*-([0-9a-f]{8,64})\.\w+")
# A date has eight such digits, too.
_DAY = re.compile(r"(19|20)\d\d(0\d|1[0-2])[0-3]\d")
# detectron2's model zoo, "model_final_f10217.pkl". No published rule says which hash this is, so any of several may fit.
_MODEL_ZOO = re.compile(r"model_final_([0-9a-f]{6})\.pkl")
_MODEL_ZOO_HASHES = ("sha256", "md5", "sha1")


def sha256(path: Path) -> str:
    """The sha256 of a file's content, hexadecimal."""
    return _digest(path, "sha256")


def hash_problem(path: Path) -> str | None:
    """Why a file does not have the hash in its name; None if it has, or if the name has no hash.

    For a file of detectron2's model zoo there is only a warning, since the meaning of its digits is not certain.
    """
    hub, zoo = _HUB.fullmatch(path.name), _MODEL_ZOO.fullmatch(path.name)
    if hub and not _DAY.fullmatch(hub[1]) and not sha256(path).startswith(hub[1]):
        return f"its sha256 does not start with {hub[1]} as its name says"
    if zoo and not any(_digest(path, kind).startswith(zoo[1]) for kind in _MODEL_ZOO_HASHES):
        logger.warning(
            "%s: none of %s starts with the %s in its name; it may be damaged, or another file.",
            path, ", ".join(_MODEL_ZOO_HASHES), zoo[1],
        )  # fmt: skip
    return None


def _digest(path: Path, kind: str) -> str:
    return hashlib.new(kind, path.read_bytes(), usedforsecurity=False).hexdigest()
