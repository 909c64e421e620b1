import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from adet_iuq.reporting.figures import f1_figure, history_figure, precision_recall_figure, short
from adet_iuq.reporting.history import Panel, Series
from adet_iuq.reporting.scores import Curve
from helpers.report_run import EVIL

CURVE = Curve(np.array([0.9, 0.5]), np.array([1.0, 0.5]), np.array([0.25, 0.5]), 4)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("name", [EVIL, "$x_2$", "_hidden", "細胞", "50 %"])
def test_names_stand_as_they_are(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in (precision_recall_figure, f1_figure):
            svg = draw([("all classes", CURVE), (name, CURVE)])
            assert name in texts(svg) and "<script" not in svg


def test_frame_takes_the_colour_of_the_page() -> None:
    svg = history_figure(Panel("loss", [Series("", np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0]))]))
    assert "currentColor" in svg and not re.search("#0b0c0d|#000000|#ffffff", svg)
    assert "iteration" in texts(svg)


def test_several_series_are_named_and_one_is_not() -> None:
    two = [Series(label, np.array([10, 20]), np.array([1.0, 2.0]), measured=True) for label in ("val segm", "val bbox")]
    assert {"val segm", "val bbox"} <= set(texts(history_figure(Panel("AP", two))))


def test_the_same_numbers_give_the_same_text() -> None:
    assert f1_figure([("a", CURVE)]) == f1_figure([("a", CURVE)])


def test_long_names_are_cut() -> None:
    assert short("a" * 28) == "a" * 28 and short("a" * 29) == "a" * 27 + "…"
