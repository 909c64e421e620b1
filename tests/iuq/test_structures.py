"""Selection, concatenation, and the scene of a range of images."""

from collections.abc import Callable

import pytest
import torch

from adet_iuq.iuq import Pixels, Queries, Scene

MakeScene = Callable[..., Scene]


def _pixels(count: int, start: int = 0) -> Pixels:
    ids = torch.arange(start, start + count)
    return Pixels(ids[:, None] * torch.ones(3), ids[:, None] * torch.ones(2), ids, {"scale": ids.float()}, ids * 10)


def test_select_keeps_rows_together() -> None:
    picked = _pixels(5).select(torch.tensor([4, 1]))
    for column in (picked.features[:, 0], picked.locations[:, 1], picked.image_ids, picked.context["scale"]):
        assert column.tolist() == [4, 1]
    assert picked.order is not None and picked.order.tolist() == [40, 10]


def test_to_casts_floats_only() -> None:
    queries = Queries(torch.ones(2, 3), torch.arange(2), torch.arange(2), {"scale": torch.ones(2)})
    half = queries.to(dtype=torch.bfloat16)
    assert half.embeddings.dtype == half.context["scale"].dtype == torch.bfloat16
    assert half.image_index.dtype == torch.long
    assert _pixels(2).to(dtype=torch.float64).image_ids.dtype == torch.long


def test_cat_drops_the_order_unless_all_have_it() -> None:
    ordered, plain = _pixels(2), _pixels(1, start=7)
    assert Pixels.cat([ordered, plain]).order is not None
    plain.order = None
    both = Pixels.cat([ordered, plain])
    assert both.order is None
    assert both.image_ids.tolist() == [0, 1, 7]


def test_views_counts_images_from_its_start(make_scene: MakeScene) -> None:
    scene = make_scene([2, 0, 3, 1])
    scene.instance_context = {"scale": [torch.full((len(masks),), float(b)) for b, masks in enumerate(scene.masks)]}
    part = scene.views(slice(2, 4))
    assert len(part) == 2
    assert part.image_ids.tolist() == [102, 103]
    assert part.sample_seeds == [1002, 1003] and part.sample_indices == [2, 3]
    assert part.queries.image_index.tolist() == [0] * 6 + [1] * 2
    assert torch.equal(part.queries.embeddings, scene.queries.embeddings[4:])
    assert [len(masks) for masks in part.masks] == [3, 1]
    assert part.instance_context["scale"][0].tolist() == [2.0] * 3
    with pytest.raises(ValueError, match="contiguous"):
        scene.views(slice(0, 4, 2))


def test_cell_locations_are_nominal(make_scene: MakeScene) -> None:
    scene = make_scene([1], offset=6)  # 12 cells a row
    assert scene.cell_locations(torch.tensor([0, 13])).tolist() == [[4.0, 4.0], [12.0, 12.0]]
    scene.nominal_offset = 1.5
    assert scene.cell_locations(torch.tensor([2])).tolist() == [[17.5, 1.5]]
