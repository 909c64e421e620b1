"""Translates between two sets of names for the same tensors, by a table that is read in both directions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# The text that a placeholder of a rule matches.
_PLACEHOLDERS = {"i": r"\d+", "j": r"\d+", "p": "weight|bias", "rest": ".+"}


@dataclass(frozen=True)
class Rule:
    """One tensor here corresponds to one or several tensors there.

    Attributes:
        ours: the name here, with placeholders {i}, {j} (numbers), {p} (weight or bias), {rest} (anything).
        theirs: the names there, with the same placeholders. If there are several, stacking their tensors along the
            first dimension gives ours.
    """

    ours: str
    theirs: tuple[str, ...]


@dataclass
class Renamed:
    """Tensors under their new names, and the old names without a new one.

    Attributes:
        tensors: the tensors by new name.
        sources: the old names of each new one.
        unplaced: old names without a rule, or whose new name another tensor has taken.
        ignored: old names of tensors that carry no information.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


class NameTable:
    """A list of rules; the first rule that fits counts.

    Args:
        rules: the rules, in this order.
        ignored: regular expressions (matched from the start) of their names that carry nothing for the models here;
            they take precedence over the rules.
        ours_only: the same for names here that have no counterpart there.
    """

    def __init__(self, rules: Sequence[Rule], ignored: Sequence[str] = (), ours_only: Sequence[str] = ()) -> None:
        self._rules = [(rule, _compiled(rule.ours), _compiled(rule.theirs[0])) for rule in rules]
        self._ignored, self._ours_only = ignored, ours_only

    def to_ours(self, tensors: Mapping[str, Tensor]) -> Renamed:
        """Their tensors under our names."""
        result = Renamed()
        used: set[str] = set()
        candidates = _rest(tensors, used, self._ignored)
        for rule, _, theirs in self._rules:
            for name in candidates:
                match = None if name in used else theirs.fullmatch(name)
                if match is None:
                    continue
                parts = [template.format(**match.groupdict()) for template in rule.theirs]
                ours = rule.ours.format(**match.groupdict())
                if ours not in result.tensors and all(part in tensors for part in parts):
                    result.tensors[ours] = _joined([tensors[part] for part in parts])
                    result.sources[ours] = parts
                    used.update(parts)
        result.unplaced = _rest(tensors, used, self._ignored)
        result.ignored = [name for name in tensors if name not in used and name not in result.unplaced]
        return result

    def from_ours(self, tensors: Mapping[str, Tensor]) -> Renamed:
        """Our tensors under their names."""
        result = Renamed()
        for name in _rest(tensors, set(), self._ours_only):
            for rule, ours, _ in self._rules:
                match = ours.fullmatch(name)
                if match is not None:
                    names = [template.format(**match.groupdict()) for template in rule.theirs]
                    parts = tensors[name].chunk(len(names)) if len(names) > 1 else [tensors[name]]
                    result.tensors.update(zip(names, parts, strict=True))
                    break
            else:
                result.unplaced.append(name)
        return result

    def ours_only(self, names: Iterable[str]) -> list[str]:
        """Those of our names that have no counterpart there and need none."""
        placed = set(_rest(names, set(), self._ours_only))
        return [name for name in names if name not in placed]


def _compiled(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for name, meaning in _PLACEHOLDERS.items():
        pattern = pattern.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>{meaning})", 1)
        pattern = pattern.replace(re.escape(f"{{{name}}}"), f"(?P={name})")
    return re.compile(pattern)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rest(names: Iterable[str], used: set[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if name not in used and not any(re.match(pattern, name) for pattern in patterns)]
