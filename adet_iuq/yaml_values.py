"""Reads YAML as plain values, for config files and `data.yaml`. Nothing in a file is executed."""

from typing import IO, Any

import yaml


def load_yaml(text: str | IO[str]) -> Any:
    """Returns what `yaml.safe_load` makes of a text.

    Raises:
        yaml.YAMLError: the text cannot be read. PyYAML itself raises many types: on values that look like dates, numbers
            or truth values but are none (2026-02-30), and on hundreds of nested brackets.
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
    """Visits all values. This does not end if one of them contains itself, which raises RecursionError."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _visit(one)
