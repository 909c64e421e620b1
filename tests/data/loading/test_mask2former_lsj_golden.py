"""The large-scale jitter mappers against Mask2Former's published ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import adet_iuq.data.loading.lsj as lsj
from adet_iuq.config import get_cfg
from adet_iuq.data.loading.lsj import InstanceLSJMapper, PanopticLSJMapper
from helpers.golden import Golden, assert_close, golden_dir, load_golden

pytestmark = pytest.mark.golden


@pytest.fixture
def golden() -> Golden:
    return load_golden("mask2former", "lsj")


@pytest.fixture
def record(golden: Golden, tmp_path: Path) -> dict[str, Any]:
    arrays = np.load(golden_dir("mask2former") / "golden_lsj.npz")
    Image.fromarray(arrays["in/image"]).save(tmp_path / "image.png")
    Image.fromarray(arrays["in/pan_seg"]).save(tmp_path / "panoptic.png")
    height, width = arrays["in/image"].shape[:2]
    files = {"file_name": str(tmp_path / "image.png"), "pan_seg_file_name": str(tmp_path / "panoptic.png")}
    annotations = {"annotations": golden.meta["annotations"], "segments_info": golden.meta["segments_info"]}
    return {**files, **annotations, "height": height, "width": width, "image_id": 1}


def calls(golden: Golden) -> int:
    count = sum(name.startswith("image_") for name in golden.outputs)
    assert count > 0
    return count


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_mapper(golden: Golden, record: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def published_seed(seed: int) -> Iterator[None]:
        np.random.seed(seed)
        yield

    monkeypatch.setattr(lsj, "seeded", published_seed)
    cfg = get_cfg()
    cfg.INPUT.FORMAT, cfg.INPUT.IMAGE_SIZE = "RGB", golden.meta["image_size"]
    mapper = {"instance": InstanceLSJMapper, "panoptic": PanopticLSJMapper}[kind](cfg)
    for call in range(calls(golden)):
        sample = mapper({**record, "sample_seed": 100 * golden.meta["seed"] + call})
        computed, expected = sample["instances"], golden.outputs
        masks = computed.gt_masks.tensor.numpy()
        assert_close("image", sample["image"].numpy(), expected[f"image_{call}"], "equal")
        assert_close("classes", computed.gt_classes.numpy(), expected[f"{kind}_classes_{call}"], "equal")
        packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
        assert_close("masks", packed, expected[f"{kind}_masks_{call}"], "equal")
        if kind == "instance":
            assert_close("boxes", computed.gt_boxes.tensor.numpy(), expected[f"instance_boxes_{call}"], "equal")
