"""YAML as plain values, for config files and `data.yaml`. Nothing in a file is executed."""

from typing import IO, Any

import yaml


def load_yaml(text: str | IO[str]) -> Any:
    """What `yaml.safe_load` makes of a text.

    Raises:
        yaml.YAMLError: for everything that goes wrong. PyYAML itself raises many types on values that look like dates,
            numbers or truths and are none (2026-02-30), and on brackets in hundreds of brackets.
    """
    try:
        content = yaml.safe_load(text)
        _visit(content)
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("its brackets or sections lie too deep in each other, or one holds itself") from error
    except Exception as error:
        raise yaml.YAMLError(f"a value in it cannot be read ({type(error).__name__}: {error})") from error
    return content


def _visit(value: Any) -> None:
    """Goes through all values, which does not end where one holds itself."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _visit(one)
