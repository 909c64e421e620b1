"""The core in a bare torch loop: detectron2 is never imported, and queries learn to leave foreign pixels alone."""

import re
import runpy
import subprocess
import sys

import pytest
import torch

from helpers.golden import REPOSITORY

RUN = """
import runpy, sys
runpy.run_path({path!r}, run_name="__main__")
print("imported", "detectron2" in sys.modules)
"""


@pytest.mark.slow
def test_queries_learn_to_leave_foreign_pixels_alone() -> None:
    code = RUN.format(path=str(REPOSITORY / "examples/plain_torch.py"))
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.endswith("imported False\n")
    lines = [dict(re.findall(r"(\w+) +([\d.]+)", line)) for line in output.splitlines() if line.startswith("step")]
    steps = {int(line["step"]): {name: float(value) for name, value in line.items()} for line in lines}
    first, started, last = steps[0], steps[50], steps[max(steps)]
    assert last["loss_mask"] < 0.6 * first["loss_mask"] and last["loss_equi"] < 0.6 * first["loss_equi"]
    # Before the term starts, queries fire on every second pixel of the memory, whosever it is; then on their own ones.
    assert started["fire_rate"] > 0.3 and last["fire_rate"] < 0.5 * started["fire_rate"]
    assert last["own_fire_rate"] > 2 * last["fire_rate"]


def test_the_toys_retrieval_of_pixels_is_that_of_maps() -> None:
    example = runpy.run_path(str(REPOSITORY / "examples/plain_torch.py"))
    image, masks = example["draw_scene"](torch.Generator().manual_seed(3))
    model = example["Toy"]()
    scene = example["look"](model, [image], [masks], [7])
    pixels = example["Pixels"](scene.features[0].flatten(1).T, torch.zeros(256, 2), torch.full((256,), 7))
    on_map = model.retrieve_map(scene.queries, scene.features)
    torch.testing.assert_close(model.retrieve(scene.queries, pixels), on_map.flatten(1))
