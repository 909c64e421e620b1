"""Reads YAML files with their `_BASE_` files. Nothing in a file is executed."""

import io
import os
import shlex
from collections.abc import Iterator
from typing import IO, Any, ClassVar

import yaml
from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY

from adet_iuq.config.lookup import find_recipe, near_recipes, packaged_recipe
from adet_iuq.errors import UserError
from adet_iuq.yaml_values import load_yaml

_PYTHON_TAG = "tag:yaml.org,2002:python/"


def read_yaml(path: str) -> dict[str, Any]:
    """The tree of sections and values.

    Args:
        path: a path or the name of a packaged file, as for `find_recipe`. A `_BASE_` that does not exist beside its file may
            name a packaged file as well.

    Raises:
        UserError: the file or a `_BASE_` of it is missing, is not YAML with sections and keys, or holds a Python expression.
    """
    path = find_recipe(path)
    try:
        return dict(_Files.load_yaml_with_base(path))
    except FileNotFoundError as error:
        missing = error.filename or path
        where = "" if missing == path else f" (a _BASE_ of {path})"
        raise UserError(
            f"Config file {missing}{where} does not exist; the working folder is {os.getcwd()}.{near_recipes(missing)}"
        ) from error
    except OSError as error:
        raise UserError(f"Config file {error.filename or path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # there is a null character in the name of a _BASE_ file
        raise UserError(f"Config file {path} has a _BASE_ that cannot be a file: {error}.") from error
    except AssertionError as error:  # fvcore raises it if one file has a section and another a value
        raise UserError(
            f"Config file {path} has a section with the name of a value in its _BASE_ file: {error}"
        ) from error
    except yaml.constructor.ConstructorError as error:
        raise UserError(_tag_text(path, error)) from error
    except yaml.YAMLError as error:
        raise UserError(f"Config file {path} is not valid YAML: {error}") from error


class _Text(io.StringIO):
    """A file's text with the name by which yaml's messages call it."""

    name = ""


class _Files(CfgNode):
    """Reads files for `load_yaml_with_base`, and checks each file before fvcore relies on its content."""

    _chain: ClassVar[list[str]] = []  # the file that is being read, after the files that lead to it by _BASE_
    _bases: ClassVar[dict[str, str]] = {}  # the relative names in a _BASE_, by the paths that fvcore makes of them

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Reads a file as fvcore does, which calls this for each `_BASE_` in turn; a circle of them is a UserError."""
        if not cls._chain:
            cls._bases.clear()
        if filename in cls._bases and not os.path.exists(filename):
            filename = str(packaged_recipe(cls._bases[filename]) or filename)
        path = os.path.abspath(filename)
        if path in cls._chain:
            raise UserError(f"Config file {filename} has a _BASE_ file whose own _BASE_ leads back to it.")
        cls._chain.append(path)
        try:
            found: dict[str, Any] = super().load_yaml_with_base(filename, allow_unsafe)
            return found
        finally:
            cls._chain.pop()

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        with super()._open_cfg(filename) as file:
            try:
                content = file.read()
            except UnicodeDecodeError as error:
                raise UserError(f"Config file {filename} is not UTF-8 text ({error}); save it as UTF-8.") from error
        text = _Text(content)
        text.name = filename
        tree = load_yaml(text)
        if not isinstance(tree, dict):
            what = "nothing" if tree is None else "a list" if isinstance(tree, list) else "only a value"
            raise UserError(f"Config file {filename} holds {what} where keys and values are wanted, as in 'SEED: 1'.")
        said = tree.get(BASE_KEY, [])
        bases = said if isinstance(said, list) else [said]
        if not all(isinstance(base, str) for base in bases):
            raise UserError(
                f"Config file {filename}: {BASE_KEY} is {said!r}; it must be a file name or a list of them."
            )
        folder = os.path.dirname(filename)
        cls._bases.update({os.path.join(folder, base): base for base in bases if not base.startswith(("/", "~"))})
        text.seek(0)
        return text


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree, with its dotted name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value


def _tag_text(path: str, error: yaml.constructor.ConstructorError) -> str:
    """The message for someone whose file has a tag that plain YAML does not know, mostly one of Python's.

    detectron2 runs `!!python/object/apply:eval`; here a config file cannot run code, as a checkpoint cannot.
    """
    file = error.problem_mark.name if error.problem_mark is not None else path
    with open(file, encoding="utf-8") as stream:
        found = [(key, node) for key, node in _nodes(yaml.compose(stream)) if node.tag.startswith(_PYTHON_TAG)]
    if not found:
        return f"Config file {file} is not valid YAML: {error}"
    lines = [f"  {key} (line {node.start_mark.line + 1}): {_source(node)}" for key, node in found]
    commands = [f" For {key}: python -c {_quoted(node)}" for key, node in found if _is_expression(node)]
    return (
        f"Config file {file} holds Python expressions, which are not run here:\n" + "\n".join(lines) + "\n"
        "Write the value in the place of each." + "".join([" A command prints it.", *commands[:2]] if commands else [])
    )


def _nodes(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """All nodes below one node, each with the dotted name of the key that it belongs to."""
    if node is None:
        return
    yield key, node
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.tag.startswith(_PYTHON_TAG):
                yield f"{key}.(a key)".lstrip("."), name
            yield from _nodes(value, f"{key}.{name.value}".lstrip("."))
    elif isinstance(node, yaml.SequenceNode) and not node.tag.startswith(_PYTHON_TAG):
        for value in node.value:
            yield from _nodes(value, key)


def _source(node: yaml.Node) -> str:
    """The text of a tagged node in its file, on one line."""
    content = node.value
    if isinstance(node, yaml.SequenceNode):
        content = ", ".join(str(part.value) for part in node.value)
    elif isinstance(node, yaml.MappingNode):
        content = "{...}"
    return f"!!{node.tag.removeprefix('tag:yaml.org,2002:')} {content}".rstrip()


def _is_expression(node: yaml.Node) -> bool:
    """Whether a tagged node is an expression whose value a command can print."""
    return node.tag.endswith(":eval") and not isinstance(node, yaml.MappingNode)


def _quoted(node: yaml.Node) -> str:
    """The shell argument that prints the value of `!!python/object/apply:eval ["..."]`."""
    expression = ", ".join(str(part.value) for part in node.value) if isinstance(node.value, list) else node.value
    return shlex.quote(f"print({expression})")
