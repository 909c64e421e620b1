"""The comparison of two checkouts, here of this one with itself."""

import re
import sys

import benchmark_revisions
import pytest
import torch
from benchmark_revisions import REPOSITORY
from benchmarking import peak_bytes


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_revisions", "--before", str(REPOSITORY), "--pairs", "2", *words])
    benchmark_revisions.main()


def test_prints_both_times_and_their_ratio(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--config-file", "configs/Mask2Former/R18_overfit.yaml", "--size", "64", "--batch", "1")
    _, line = capfd.readouterr().out.splitlines()
    found = re.fullmatch(r"(\S+) +([\d.]+) s +([\d.]+) s +([\d.]+)  ([\d.]+) to ([\d.]+); (\d+) and (\d+) MB", line)
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


@pytest.mark.parametrize("kind", ["CondInst RLE", "Mask2Former RLE"])
def test_a_dense_image_in_run_lengths_needs_no_tensor_of_its_masks(kind: str) -> None:
    """Beside copies of the predicted masks, which have a sixteenth of the pixels, there are only small chunks.

    300 masks of 400 x 640 take 73 MB as a tensor of bool. The logits take 18 MB.
    """
    number, size = 300, (400, 640)
    logits = number * 4 * size[0] * size[1] // 16
    step = benchmark_revisions.masks_step(kind, 0.005, number, size)
    with torch.no_grad():
        assert peak_bytes(step) <= 1.5 * logits + 24 * 2**20
        assert (
            peak_bytes(benchmark_revisions.masks_step(kind.replace("RLE", "tensor"), 0.005, number, size)) > 73 * 2**20
        )
