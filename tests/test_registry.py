"""A registry gives back what stands under a name, and keeps names apart."""

import pytest

from adet_iuq.registry import Registry, callable_name


def test_names_and_things() -> None:
    registry: Registry[type] = Registry("number")
    assert registry.register("one")(int) is int
    registry.register("two")(float)
    registry.register("one")(int)  # a module that is imported again
    assert registry.get("one") is int and registry.get("three") is None and registry.get(None) is None
    assert registry.names == ["one", "two"]
    with pytest.raises(ValueError, match='"one" already stands for another number'):
        registry.register("one")(float)


def test_callables_have_names() -> None:
    assert callable_name(registry_of_nothing).startswith("registry_of_nothing (") and callable_name(3) == "int"


def registry_of_nothing() -> None:
    pass
