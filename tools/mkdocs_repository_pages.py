"""A hook of mkdocs.yml: brings the README files of folders outside docs/ to the site, and mends links between the two.

A page is written for readers of the repository: its links are relative to its own place there. The site has the same tree,
less the folder docs/, so that a link only changes where it enters or leaves docs/.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
PATTERNS = ("datasets/README.md", "projects/README.md", "projects/*/README.md", "configs/CondInst/Ablations/README.md")
# The target of a link or picture, without anchor; addresses with a scheme and anchors alone do not match.
_TARGET = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)#\s]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README files under their paths in the repository; MkDocs calls it."""
    for pattern in PATTERNS:
        for path in sorted(REPOSITORY.glob(pattern)):
            name = path.relative_to(REPOSITORY).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Returns the page with links that work on the site; MkDocs calls it."""
    outside = page.file.generated_by is not None
    return mend_links(markdown, page.file.src_uri, outside)


def mend_links(markdown: str, place: str, outside: bool) -> str:
    """Changes links that are relative to a page's place in the repository into links relative to its place on the site.

    Args:
        markdown: the text of the page.
        place: the path of the page on the site.
        outside: whether the page lies outside docs/ in the repository. Its path there is then the same as on the site.
    """
    home = posixpath.dirname(place if outside else f"docs/{place}")

    def mend(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, match[0])).removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(place) or ".")

    return _TARGET.sub(mend, markdown)
