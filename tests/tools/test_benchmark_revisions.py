"""The comparison of two checkouts, here of this one with itself."""

import re
import sys

import benchmark_revisions
import pytest
from benchmark_revisions import REPOSITORY


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_revisions", "--before", str(REPOSITORY), "--pairs", "2", *words])
    benchmark_revisions.main()


def test_prints_both_times_and_their_ratio(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--config-file", "configs/Mask2Former/R18_overfit.yaml", "--size", "64", "--batch", "1")
    _, line = capfd.readouterr().out.splitlines()
    found = re.fullmatch(r"(\S+) +([\d.]+) s +([\d.]+) s +([\d.]+)  ([\d.]+) to ([\d.]+)", line)
    assert (
        found
        and found[1] == "configs/Mask2Former/R18_overfit.yaml"
        and all(float(one) > 0 for one in found.groups()[1:])
    )


@pytest.mark.slow  # eight processes
def test_results_are_compared_in_both_forms(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--masks", "0.01")
    _, *lines = capfd.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "CondInst tensor",
        "CondInst RLE",
        "Mask2Former tensor",
        "Mask2Former RLE",
    ]


def test_a_checkout_that_cannot_do_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="has ended"):
        run(monkeypatch, "--config-file", "configs/none.yaml")
