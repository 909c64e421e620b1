"""Registers objects under names that a config or a data set's metadata can use. Anybody may add to a registry."""

from collections.abc import Callable
from types import FunctionType
from typing import Generic, TypeVar, cast

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """Objects under the names that users write. Unlike in detectron2's Registry, a name need not be that of the object.

    Args:
        kind: what is registered, as messages call it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._found: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """A decorator: `@MAPPER_REGISTRY.register("my_mapper")`.

        Raises:
            ValueError: the name already belongs to another object.
        """

        def add(thing: Registered) -> Registered:
            if self._found.get(name, thing) is not thing:
                raise ValueError(f'The name "{name}" already stands for another {self.kind}; choose another one.')
            self._found[name] = cast(T, thing)  # importers see the class; the registry stores it as a maker of T
            return thing

        return add

    def get(self, name: object) -> T | None:
        """The object under a name; None if there is none."""
        return self._found.get(name) if isinstance(name, str) else None

    @property
    def names(self) -> list[str]:
        """All names, in the order of their registration."""
        return list(self._found)


def callable_name(function: object) -> str:
    """How a message names a function (with its place in a file) or an object (by its class)."""
    if isinstance(function, FunctionType):
        return f"{function.__qualname__} ({function.__code__.co_filename}, line {function.__code__.co_firstlineno})"
    return type(function).__name__
