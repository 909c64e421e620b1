import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from adet_iuq.config import get_cfg
from adet_iuq.data import register_datasets
from adet_iuq.engine.loop.state import random_state
from adet_iuq.errors import UserError
from adet_iuq.evaluation.queries import check_probe, measure_queries, probe_queries, probe_samples, undisturbed
from adet_iuq.iuq import IUQCriterion, Pixels, Queries, Scene, masks_at_cells
from adet_iuq.modeling import IUQMetaArch, TrainingPass, Views, content_size
from adet_iuq.modeling.layers import instance_masks
from helpers.grid_checks import CASES
from helpers.scenes import discs, mask2former_model, small_model
from helpers.toy_segmenter import BareSegmenter

SIZE = 64
NO_TERMS = ("MODEL.IUQ.INTER.ENABLED", "False", "MODEL.IUQ.EQUI.ENABLED", "False")


class ColourQueries(IUQMetaArch):
    """A query is the colour of its instance and fires on all pixels of that colour; the map is the image, every 4th pixel.

    `drift` adds each cell's column to the map, so that it is not equivariant.
    """

    pixel_dim, pixel_offset = 3, 0.0
    passes: Tensor

    def __init__(self, drift: float = 0.0) -> None:
        super().__init__(criterion=IUQCriterion(), views=Views(), pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
        self.drift = drift
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("passes", torch.zeros(1))

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        self.passes += 1
        get_event_storage().put_scalar("noise", float(torch.rand(1)))
        images = self.preprocess(batched_inputs).tensor
        self.norm(images)
        masks = [instance_masks(inputs["instances"]) for inputs in batched_inputs]
        found = [(image, row) for image, mine in enumerate(masks) for row in range(len(mine))]
        colours = [images[image][:, : masks[image].shape[1], : masks[image].shape[2]] for image, _ in found]
        features = images[:, :, ::4, ::4]
        return TrainingPass(
            losses={},
            features=features + self.drift * torch.arange(features.shape[3]),
            embeddings=torch.stack([c[:, masks[i][r]].mean(1) for c, (i, r) in zip(colours, found, strict=True)]),
            image_index=torch.tensor([image for image, _ in found]),
            target_index=torch.tensor([row for _, row in found]),
            masks=masks,
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
        )

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise NotImplementedError

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        return 100 * (0.5 - torch.cdist(queries.embeddings, pixels.features))

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        distance = (maps[queries.image_index] - queries.embeddings[:, :, None, None]).norm(dim=1)
        return 100 * (0.5 - distance)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        size = (logits.shape[1], logits.shape[2])
        grids = [masks_at_cells(mask, scene.stride, scene.offset, size) for mask in scene.masks]
        pairs = zip(scene.queries.image_index.tolist(), scene.queries.target_index.tolist(), strict=True)
        wrong = [((logits[n] > 0) != grids[i][k])[valid[i]].float().mean() for n, (i, k) in enumerate(pairs)]
        return torch.stack(wrong).mean() if wrong else logits.sum()


def stripes(image_id: int, colours: tuple[float, float]) -> dict[str, Any]:
    """An image whose upper and lower half are an instance each, of these colours."""
    image = torch.zeros(3, SIZE, SIZE)
    image[:, : SIZE // 2], image[:, SIZE // 2 :] = colours[0], colours[1]
    instances = Instances((SIZE, SIZE))
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    masks[0, : SIZE // 2] = masks[1, SIZE // 2 :] = True
    instances.gt_masks, instances.gt_boxes = BitMasks(masks), BitMasks(masks).get_bounding_boxes()
    instances.gt_classes = torch.zeros(2, dtype=torch.long)
    return {"image": image, "instances": instances, "image_id": image_id, "sample_seed": 10 + image_id}


def test_rates_by_hand() -> None:
    """Of two instances each, one has the colour of one in the other image: a quarter of the foreign pairs fire.

    All instances have the same number of sampled pixels. In its own image a query fires on its instance, half of them.
    """
    model = ColourQueries()
    with undisturbed(model):
        found = measure_queries(model, [stripes(0, (10, 20)), stripes(1, (20, 30))])
    assert found["fire_rate"] == pytest.approx(25) and found["own_fire_rate"] == pytest.approx(50)
    assert found["fire_probability"] == pytest.approx(25, abs=1e-3)
    assert (found["equi_error"], found["equi_feature_error"], found["images"]) == (0, 0, 2)
    assert found["equi_iou"] == pytest.approx(100)


def test_similarities_by_hand() -> None:
    """A query is the colour of its instance. The fourth one has a class of its own and no look-alike."""
    first, second = stripes(0, (10, 20)), stripes(1, (20, 30))
    half = slice(SIZE // 2, SIZE)
    for image, rows, colour in (
        (first, slice(0, SIZE // 2), (10, 0, 0)), (first, half, (5, 75**0.5, 0)),
        (second, slice(0, SIZE // 2), (20, 0, 0)), (second, half, (0, 0, 1)),
    ):  # fmt: skip
        image["image"][:, rows] = torch.tensor(colour)[:, None, None]
    second["instances"].gt_classes[1] = 1
    with undisturbed(model := ColourQueries()):
        found = measure_queries(model, [first, second])
    queries = np.array([(10, 0, 0), (5, 75**0.5, 0), (20, 0, 0), (0, 0, 1)])
    centred = queries - queries.mean(axis=0)
    directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = directions @ directions.T
    nearest = [cosine[0, 2], cosine[1, 2], max(cosine[2, 0], cosine[2, 1])]
    assert found["similarity"] == pytest.approx(100 * np.mean(nearest), abs=1e-3)
    assert found["own_similarity"] == pytest.approx(100 * cosine[0, 1], abs=1e-3)


def test_a_map_that_is_not_equivariant_shows() -> None:
    with undisturbed(model := ColourQueries(drift=0.1)):
        found = measure_queries(model, [stripes(image, (10, 20)) for image in range(4)])
    assert found["equi_feature_error"] > 1e-4
    assert found["equi_error"] > 0.05 and found["equi_iou"] < 95


def test_one_image_has_no_foreign_pixel() -> None:
    with undisturbed(model := ColourQueries()):
        found = measure_queries(model, [stripes(0, (10, 20))])
    assert math.isnan(found["fire_rate"]) and found["own_fire_rate"] == pytest.approx(50)


def bits(model: nn.Module) -> dict[str, Tensor]:
    buffers = {f"buffer.{name}": buffer.clone() for name, buffer in model.named_buffers()}
    return {**{name: value.clone() for name, value in model.state_dict().items()}, **buffers}


SEGMENTERS: dict[str, Any] = {
    "condinst": lambda *o: small_model("CondInst/R50_1x_iuq.yaml", "MODEL.RESNETS.NORM", "BN", *o),
    "condinst reference": lambda *o: small_model(
        "CondInst/R50_1x_iuq.yaml", "MODEL.IUQ.INTER.REL_COORDS", "instance", *o
    ),
    "solov2": lambda *o: CASES["solov2"].model(CASES["solov2"].iuq_recipe, *o),
    "sotr": lambda *o: CASES["sotr"].model(CASES["sotr"].iuq_recipe, *o),
    "mask2former": lambda *o: mask2former_model("Mask2Former/R50_50ep_iuq.yaml", *o),
    "toy": lambda *o: ColourQueries(),
}


@pytest.mark.parametrize("terms", [(), NO_TERMS], ids=["both terms", "none"])
@pytest.mark.parametrize("kind", SEGMENTERS)
def test_every_segmenter_is_measured_and_nothing_of_it_changes(kind: str, terms: tuple[str, ...]) -> None:
    """The same numbers twice, whatever was drawn in between; weights, buffers, modes, random states stay bit for bit."""
    model = SEGMENTERS[kind](*terms)
    model.train()
    next(model.children()).eval()  # modes may differ from module to module
    modes = [module.training for module in model.modules()]
    before, state = bits(model), random_state()
    samples = [discs(96, 128, 3, seed) for seed in (1, 2)]
    found = []
    for _ in range(2):
        with undisturbed(model):
            found.append(measure_queries(model, samples))
        assert random_state()["torch"].equal(state["torch"])
        assert random_state()["numpy"][1].equal(state["numpy"][1])
        assert random_state()["python"] == state["python"]
    after = bits(model)
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert found[0] == pytest.approx(found[1], rel=0, abs=0, nan_ok=True)
    # The discs of an image are of three classes, so none has a look-alike beside it.
    measured = [name for name in found[0] if name not in ("equi_iou", "own_similarity")]
    assert all(math.isfinite(found[0][name]) for name in measured), found[0]
    assert (0 <= found[0]["fire_rate"] <= 100 and found[0]["equi_error"] > 0) or kind == "toy"


def test_the_samples_are_those_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the test size, without augmentation, drawn by the seed, with ids of their own."""
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path))
    cfg = get_cfg()
    cfg.DATASETS.TEST, cfg.DATASETS.TRAIN = ("shapes_val",), ()
    cfg.DATASETS.SHAPES.SIZE, cfg.DATASETS.SHAPES.NUM_VAL = 64, 6
    cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.TEST.QUERY_PROBE.ENABLED, cfg.TEST.QUERY_PROBE.IMAGES = True, 4
    register_datasets(cfg)
    samples = list(probe_samples(cfg, "shapes_val"))
    assert [sample["image_id"] for sample in samples] == [0, 1, 2, 3]
    assert all(sample["image"].shape == (3, 96, 96) and len(sample["instances"]) for sample in samples)
    files = [sample["file_name"] for sample in samples]
    assert files == [sample["file_name"] for sample in probe_samples(cfg, "shapes_val")]
    cfg.TEST.QUERY_PROBE.SEED = 1
    assert files != [sample["file_name"] for sample in probe_samples(cfg, "shapes_val")]
    model = ColourQueries().train()
    results = probe_queries(cfg, model)
    assert list(results) == ["shapes_val"] and results["shapes_val"]["images"] == 4 and model.training
    cfg.TEST.QUERY_PROBE.ENABLED = False
    assert probe_queries(cfg, model) == {}


def test_what_cannot_be_probed_is_refused_at_the_start() -> None:
    cfg = get_cfg()
    assert check_probe(cfg, BareSegmenter()) is None
    cfg.TEST.QUERY_PROBE.ENABLED = True
    with pytest.raises(UserError, match=r"TEST\.QUERY_PROBE needs .* BareSegmenter is none"):
        check_probe(cfg, BareSegmenter())
    cfg.TEST.QUERY_PROBE.IMAGES = 1
    with pytest.raises(UserError, match="at least 2"):
        check_probe(cfg, ColourQueries())
