"""A hook of mkdocs.yml: turns fences of the language `math` (LaTeX) into MathML, which browsers show without any script.

The same fences are shown as equations where the repository is browsed on GitHub.
"""

from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the language to the Markdown extension that renders fences; MkDocs calls it."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "equation", "format": to_mathml})
    return config


def to_mathml(source: str, language: str, css_class: str, *_: Any, **__: Any) -> str:
    """Returns the HTML of one equation.

    Args:
        source: the LaTeX of the equation.
        language: the language of the fence, which is always "math".
        css_class: the CSS class of the HTML element around the equation.
        _: the options of the fence and the Markdown parser, which are not used.
        __: further attributes of the fence, which are not used.
    """
    return f'<div class="{css_class}">{convert(source, display="block")}</div>'
