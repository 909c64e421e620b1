"""Links of pages hold in the repository and on the site."""

import pytest

pytest.importorskip("mkdocs", reason="mkdocs is not installed; pip install -e '.[test]' brings all that the site needs")

from mkdocs_repository_pages import mend_links


@pytest.mark.parametrize(
    ("place", "outside", "link", "mended"),
    [
        ("start.md", False, "[t](scaling.md#faults)", "[t](scaling.md#faults)"),
        ("start.md", False, "[t](../datasets/README.md)", "[t](datasets/README.md)"),
        ("parity/solq.md", False, "[t](../../projects/SOLQ/README.md#a)", "[t](../projects/SOLQ/README.md#a)"),
        ("projects/SOLQ/README.md", True, "[t](../../docs/parity/solq.md)", "[t](../../parity/solq.md)"),
        ("projects/SOLQ/README.md", True, "[t](../Minimal/README.md)", "[t](../Minimal/README.md)"),
        (
            "start.md",
            False,
            "![p](pictures/a.png) [t](#here) [t](https://a.b/c.md)",
            "![p](pictures/a.png) [t](#here) [t](https://a.b/c.md)",
        ),
    ],
)
def test_links(place: str, outside: bool, link: str, mended: str) -> None:
    assert mend_links(link, place, outside) == mended
