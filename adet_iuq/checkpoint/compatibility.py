"""Decides from names and shapes alone whether the weights in a file belong to a model."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from adet_iuq.modeling.segmenter import Segmenter

Shape = tuple[int, ...]

# Tensors that carry no information, or that are made from the config; whether a file has them never matters.
_INESSENTIAL = (
    "num_batches_tracked",
    "pixel_mean",
    "pixel_std",
    "anchor_generator.cell_anchors",
    "relative_position_index",
    "attn_mask",
)
# The first parts of the names that image classifiers give to the layers behind their bottom-up network. conv_head, bn2 and
# norm_head are those of timm's EfficientNet and MobileNet.
CLASSIFIER = frozenset(
    {"fc", "fc1000", "head", "classifier", "linear", "norm", "pre_logits", "pred", "conv_head", "bn2", "norm_head"}
)
_BACKBONE = "backbone."
# The place of the bottom-up network in detectron2's pyramids, and in models of DETR's family.
_BOTTOM_UP_PLACES = ("bottom_up.", "0.body.")
# Swin's output norms, which no classifier has.
_OUTPUT_NORM = re.compile(r"backbone\.(bottom_up\.|0\.body\.)?norm\d\.")
# If a larger share of its tensors is missing or surplus, a bottom-up network is of another kind or depth.
_BOTTOM_UP_TOLERANCE = 0.2


@dataclass
class Comparison:
    """Names of a file's and a model's tensors, sorted by what happens to them.

    Attributes:
        matched: names in both, with the same shape.
        resized: names in both, with different shapes because the number of classes differs.
        mismatched: names in both, with different shapes for any other reason.
        missing: names in the model only.
        unexpected: names in the file only.
        shapes: the shapes of `resized` and `mismatched` in the file and in the model.
        sources: the file's own names of renamed tensors, by their new names.
    """

    matched: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def in_file(self, names: Iterable[str]) -> list[str]:
        """The file's own names, for people who look into the file."""
        return [own for name in names for own in self.sources.get(name, (name,))]


def compare(
    file: Mapping[str, Shape],
    model: Mapping[str, Shape],
    optional: Iterable[str] = (),
    class_counts: Collection[int] = (),
) -> Comparison:
    """Compares the tensors of a file with those of a model.

    Args:
        file: shapes by name, with names already converted to the model's.
        model: shapes by name.
        optional: names, prefixes or suffixes of tensors that may be missing or surplus.
        class_counts: the numbers of classes in the config. A first dimension of such a size (or one more, for a
            background class) may differ from the file's.
    """
    result = Comparison()
    inessential = (*_INESSENTIAL, *optional)
    for name, shape in model.items():
        if name not in file:
            if not _matches(name, inessential):
                result.missing.append(name)
        elif file[name] == shape:
            result.matched.append(name)
        else:
            result.shapes[name] = (file[name], shape)
            classes = _class_dependent(file[name], shape, class_counts)
            (result.resized if classes else result.mismatched).append(name)
    result.unexpected = [name for name in file if name not in model and not _matches(name, inessential)]
    return result


def optional_keys(model: nn.Module) -> tuple[str, ...]:
    """The segmenter's `optional_checkpoint_keys`; nothing for a part of a segmenter, such as a backbone."""
    return model.optional_checkpoint_keys if isinstance(model, Segmenter) else ()


def training_problem(comparison: Comparison) -> str | None:
    """Why a training cannot start from these weights; None if it can.

    It can start from the same architecture, even with another number of classes or with new parts, and from a file that
    holds a backbone or an image classifier.
    """
    if not comparison.matched:
        return f"not one of its tensors fits the model; it holds {listing(comparison.in_file(comparison.unexpected))}"
    if comparison.mismatched:
        return f"tensors have other shapes than in the model: {listing(comparison.mismatched, comparison.shapes)}"
    known = set(comparison.matched) | set(comparison.resized)
    prefix = bottom_up_prefix([*known, *comparison.missing])
    parts = {name.removeprefix(prefix).split(".")[0] for name in known if name.startswith(prefix)}
    foreign = [
        name
        for name in comparison.unexpected
        if not name.startswith(_BACKBONE) and name.split(".")[0] not in parts | CLASSIFIER
    ]
    fitting = [name for name in known if not name.startswith(_BACKBONE)]
    if len(foreign) > len(fitting):
        return (
            f"of its {len(foreign) + len(fitting)} tensors beside the backbone only {len(fitting)} fit the model; "
            f"foreign are {listing(comparison.in_file(foreign))}"
        )
    return _bottom_up_problem(comparison, prefix, parts)


def bottom_up_prefix(names: Iterable[str]) -> str:
    """The prefix of the names of a model's bottom-up network: it stands alone, under a pyramid, or where DETR has it."""
    names = list(names)
    deeper = (_BACKBONE + place for place in _BOTTOM_UP_PLACES)
    return next((prefix for prefix in deeper if any(name.startswith(prefix) for name in names)), _BACKBONE)


def _bottom_up_problem(comparison: Comparison, prefix: str, parts: set[str]) -> str | None:
    """Recognises a backbone of another depth or kind, of which only some layers coincide."""
    matched = [name for name in comparison.matched if name.startswith(prefix)]
    missing = [name for name in comparison.missing if name.startswith(prefix) and not _OUTPUT_NORM.match(name)]
    surplus = [name for name in comparison.unexpected if name.startswith(prefix) or name.split(".")[0] in parts]
    limit = _BOTTOM_UP_TOLERANCE * len(matched)
    if matched and len(missing) > limit:
        return f"it has only a part of the model's backbone; missing are {listing(missing)}"
    if matched and len(surplus) > limit:
        return f"its backbone has more layers than the model's: {listing(comparison.in_file(surplus))}"
    return None


def evaluation_problem(comparison: Comparison) -> str | None:
    """Why the model cannot be evaluated, or its training resumed, with these weights; None if it can."""
    problem = None if comparison.matched else training_problem(comparison)
    if problem is None and comparison.resized:
        problem = f"tensors belong to another number of classes: {listing(comparison.resized, comparison.shapes)}"
    if problem is None and comparison.mismatched:
        problem = training_problem(comparison)
    if problem is None and comparison.missing:
        problem = f"tensors of the model are missing in it: {listing(comparison.missing)}"
    return problem


def listing(names: Collection[str], shapes: Mapping[str, tuple[Shape, Shape]] | None = None, limit: int = 4) -> str:
    """The first few names, with shapes if they are given, and the number of the others."""
    shown = []
    for name in list(names)[:limit]:
        there, here = (shapes or {}).get(name, ((), ()))
        shown.append(f"{name} ({list(there)} in the file, {list(here)} in the model)" if shapes else name)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown) + rest


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name == p or name.startswith(p) or name.endswith(p) for p in patterns)


def _class_dependent(there: Shape, here: Shape, class_counts: Collection[int]) -> bool:
    """Whether two shapes differ only in their first dimension, which in the model is a number of classes."""
    if not there or not here or there[1:] != here[1:] or len(there) != len(here):
        return False
    return any(here[0] - count in (0, 1) for count in class_counts)
