"""How much memory a picture of 10,000 x 10,000 pixels takes, from the file to AP."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.golden import REPOSITORY

SIDE = 10_000
ALL: dict[str, dict[str, Any]] = {  # untrained models give as many masks as they may
    "CondInst": {"MODEL.FCOS.INFERENCE_TH_TEST": 0.0},
    "SOLOv2": {"MODEL.SOLOV2.SCORE_THR": 0.0, "MODEL.SOLOV2.MASK_THR": 0.1, "MODEL.SOLOV2.UPDATE_THR": 0.0},
    "SOTR": {"MODEL.SOTR.SCORE_THR": 0.0, "MODEL.SOTR.MASK_THR": 0.1, "MODEL.SOTR.UPDATE_THR": 0.0},
    "Mask2Former": {},
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one picture with five discs as polygons of 60 corners."""
    folder = tmp_path_factory.mktemp("large")
    noise = np.random.default_rng(0).integers(0, 256, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((SIDE, SIDE)).save(folder / "large.jpg", quality=90)
    annotations: list[dict[str, Any]] = []
    for number in range(5):
        x, y, r = SIDE * (0.2 + 0.15 * number), SIDE * (0.3 + 0.1 * number), 0.08 * SIDE
        angles = [k * math.pi / 30 for k in range(60)]
        corners = [value for a in angles for value in (x + r * math.cos(a), y + r * math.sin(a))]
        annotations.append({"id": number + 1, "image_id": 1, "category_id": 1, "segmentation": [corners]})
    images = [{"id": 1, "file_name": "large.jpg", "height": SIDE, "width": SIDE}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    (folder / "large.json").write_text(json.dumps(content))
    return folder


def resident(process: int) -> int:
    """Bytes of a process and all its children; what they share counts in each of them."""
    own = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return own + sum(map(resident, map(int, children)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of processes as Linux tells it")
@pytest.mark.parametrize("name", ALL)
def test_a_picture_of_a_hundred_megapixels_takes_less_than_six_gigabytes(
    name: str, large: Path, tmp_path: Path
) -> None:
    options = {
        "DATASETS.REGISTER": [["large", str(large / "large.json"), str(large)]],
        "DATASETS.TRAIN": ("large",),
        "DATASETS.TEST": ("large",),
        "DATALOADER.NUM_WORKERS": 1,
        "TEST.DETECTIONS_PER_IMAGE": 70,  # 7 GB of pixels
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": (),
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "OUTPUT_DIR": tmp_path,
        "REPORT.ENABLED": False,
        **ALL[name],
    }
    words = [str(word) for pair in options.items() for word in pair]
    config = str(REPOSITORY / "configs" / name / "R18_overfit.yaml")
    command = [sys.executable, str(REPOSITORY / "tools/train_net.py"), "--config-file", config, *words]
    environment = {**os.environ, "ADET_IUQ_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    peak = 0
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=environment) as run:
        while run.poll() is None:
            with contextlib.suppress(OSError):  # a process ended meanwhile
                peak = max(peak, resident(run.pid))
            if peak > 6e9:
                run.kill()
            time.sleep(0.1)
    print(f"{name}: {peak / 1e9:.2f} GB")
    assert peak < 6e9
    assert run.returncode == 0, (tmp_path / "log").read_text()[-2000:]
