"""Things by name: what a config or a data set's metadata names, and anybody may add to."""

from collections.abc import Callable
from types import FunctionType
from typing import Generic, TypeVar, cast

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """Objects by the names that users write; detectron2's Registry, with names that need not be those of the objects.

    Args:
        kind: what is registered, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._found: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """A decorator: `@MAPPER_REGISTRY.register("my_mapper")`.

        Raises:
            ValueError: the name belongs to something else.
        """

        def add(thing: Registered) -> Registered:
            if self._found.get(name, thing) is not thing:
                raise ValueError(f'The name "{name}" already stands for another {self.kind}; choose another one.')
            self._found[name] = cast(T, thing)  # a class stays one for its importers, and here makes its objects
            return thing

        return add

    def get(self, name: object) -> T | None:
        """What stands under a name; None if nothing does."""
        return self._found.get(name) if isinstance(name, str) else None

    @property
    def names(self) -> list[str]:
        """All names, in the order of their registration."""
        return list(self._found)


def callable_name(function: object) -> str:
    """How a message calls a function (with its place in a file) or an object of a class."""
    if isinstance(function, FunctionType):
        return f"{function.__qualname__} ({function.__code__.co_filename}, line {function.__code__.co_firstlineno})"
    return type(function).__name__
