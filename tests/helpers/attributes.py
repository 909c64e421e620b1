"""Everything that an object holds, however deep: to compare the settings of two models, or to look for what must not be."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor


def walk(value: Any, path: str = "", ancestors: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """`value` and all that it holds, each with its path: through modules, dataclasses, containers, partials, closures."""
    yield path, value
    if id(value) in ancestors:
        return
    for name, child in _children(value):
        yield from walk(child, f"{path}.{name}", (*ancestors, id(value)))


def settings(value: Any) -> dict[str, Any]:
    """Numbers, words, switches and None in `value` by their path; a list's are a tuple's."""
    return {path: leaf for path, leaf in walk(value) if leaf is None or isinstance(leaf, int | float | str)}


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor | str | bytes | type):
        return
    if isinstance(value, Mapping):
        yield from ((str(key), child) for key, child in value.items())
    elif isinstance(value, Sequence | set | frozenset):
        yield from ((str(index), child) for index, child in enumerate(value))
    elif isinstance(value, partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, FunctionType):
        yield "closure", [cell.cell_contents for cell in value.__closure__ or ()]
        yield "defaults", [value.__defaults__, value.__kwdefaults__]
    elif hasattr(value, "__dict__"):
        yield from vars(value).items()
