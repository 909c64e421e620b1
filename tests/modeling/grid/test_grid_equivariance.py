"""Equivariance of grid segmenters on a toy network that knows the answer: alignment of map, views and masks."""

from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor

from adet_iuq.iuq import CropFlip
from adet_iuq.modeling.grid import GridMaps, GridTargets, quarter_masks
from adet_iuq.modeling.grid.grid_segmenter_iuq import GridSegmenterIUQ
from adet_iuq.modeling.views import transform_inputs
from helpers.grid_checks import AT_ONCE, CASES
from helpers.scenes import small_cfg

COLOURS = 3


class Toy(GridSegmenterIUQ):
    """Goes before SOLOv2IUQ or SOTRIUQ. Reads the instances off the image, where each has its own colour: a map and queries
    without any error."""

    shift = 0  # cells that the map is displaced by

    def _maps(self, images: ImageList) -> GridMaps:
        size = (images.tensor.shape[2] // 4, images.tensor.shape[3] // 4)
        colours = [quarter_masks(images.tensor[:, 0] == colour, size) for colour in range(1, COLOURS + 1)]
        features = torch.zeros(len(images.tensor), self.pixel_dim, *size)
        features[:, :COLOURS], features[:, COLOURS] = torch.stack(colours, dim=1), 1.0
        features = features.roll(self.shift, dims=3).requires_grad_()
        grids = [torch.zeros(len(features), 3, size, size) for size in self.layout.sizes]
        return GridMaps(grids, grids, features)

    def positive_kernels(self, maps: GridMaps, targets: GridTargets) -> Tensor:
        """Queries that fire on their own colour; each instance has its own class."""
        kernels = torch.zeros(len(targets), self.pixel_dim)
        kernels[torch.arange(len(targets)), targets.labels[targets.image, targets.cell]] = 20.0
        kernels[:, COLOURS] = -10.0
        return kernels.requires_grad_()


@pytest.fixture(scope="module", params=CASES)
def toy(request: pytest.FixtureRequest) -> Toy:
    case = CASES[request.param]
    cfg = small_cfg(case.iuq_recipe, *case.small, *AT_ONCE)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    return type(f"Toy{case.iuq.__name__}", (Toy, case.iuq), {})(cfg)


def painted(height: int, width: int) -> dict[str, Any]:
    """Three instances apart from each other, painted in their colours on black."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    masks = torch.stack([(y - cy) ** 2 + (x - cx) ** 2 < 0.03 for cy, cx in ((0.22, 0.25), (0.3, 0.78), (0.78, 0.4))])
    image = (masks * torch.arange(1, COLOURS + 1)[:, None, None]).sum(0).expand(3, -1, -1).float()
    instances = Instances((height, width))
    instances.gt_masks, instances.gt_classes = BitMasks(masks), torch.arange(COLOURS)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return {"image": image, "instances": instances, "image_id": 1}


def equi_loss(toy: Toy, inputs: list[dict[str, Any]], transforms: list[CropFlip]) -> Tensor:
    views = inputs + [transform_inputs(one, g) for one, g in zip(inputs, transforms, strict=True)]
    scene, _ = toy.forward_scene(views)
    assert toy.iuq_criterion.equi is not None
    loss, _ = toy.iuq_criterion.equi(toy, scene, transforms)
    return loss


@pytest.mark.parametrize("size", [(128, 160), (131, 150), (118, 97)])
def test_equivariant_network_has_no_loss_and_one_cell_off_has(toy: Toy, size: tuple[int, int]) -> None:
    image, generator = painted(*size), torch.Generator().manual_seed(size[0])
    transforms = [CropFlip.sample(generator, size, stride=toy.pixel_stride, offset=toy.pixel_offset) for _ in range(30)]
    transforms += [CropFlip.identity(size), CropFlip(0, 0, size[1] // 4 * 4, size[0], flip=True)]
    assert any(g.flip for g in transforms) and any(g.w % 4 for g in transforms) and any(g.y0 for g in transforms)
    for g in transforms:
        toy.shift = 0
        aligned = equi_loss(toy, [image], [g])
        toy.shift = 1
        broken = equi_loss(toy, [image], [g])
        assert aligned < 1e-3, g
        assert broken > 0.05, g
    toy.shift = 0


def test_hidden_instances_are_left_out(toy: Toy) -> None:
    """Views that show one row or column of an instance, too little for a cell, with and without another instance."""
    image = painted(128, 160)
    for cut, count in ((CropFlip(0, 0, 160, 18), 2), (CropFlip(0, 0, 14, 64), 1)):
        view = transform_inputs(image, cut)
        scene, _ = toy.forward_scene([view])
        assert view["instances"].gt_masks.tensor.flatten(1).sum(1).min() < 20
        assert scene.queries.target_index.unique().tolist() == list(range(count))
        assert equi_loss(toy, [image], [cut]) < 1e-3


def test_gradient_of_the_equi_loss_reaches_map_and_queries(toy: Toy) -> None:
    image = painted(128, 160)
    g = CropFlip(16, 8, 128, 96, flip=True)
    scene, _ = toy.forward_scene([image, transform_inputs(image, g)])
    assert toy.iuq_criterion.equi is not None
    loss, _ = toy.iuq_criterion.equi(toy, scene, [g])
    features, embeddings = torch.autograd.grad(loss, [scene.features, scene.queries.embeddings])
    assert features[0].abs().sum() > 0 and features[1].abs().sum() == 0
    view = scene.queries.image_index == 1
    assert embeddings[view].abs().sum() > 0 and embeddings[~view].abs().sum() == 0


def test_a_pixel_of_the_memory_is_its_channels(toy: Toy) -> None:
    """Retrieval across images is the product of the map's own retrieval, whatever the pixel's position."""
    inputs = [{**painted(*size), "image_id": index} for index, size in enumerate([(128, 160), (96, 96)])]
    scene, _ = toy.forward_scene(inputs)
    pixels = toy.iuq_criterion.sampler(scene)
    logits = toy.retrieve(scene.queries, pixels)
    on_maps = toy.retrieve_map(scene.queries, scene.features)
    own = scene.queries.image_index[:, None] == pixels.image_ids[None]
    cells = ((pixels.locations - 1.5) / 4).long()
    expected = on_maps[:, cells[:, 1], cells[:, 0]]
    assert own.any() and torch.equal(logits[own], expected[own])
    pixels.locations = pixels.locations + 100
    assert torch.equal(toy.retrieve(scene.queries, pixels), logits)
