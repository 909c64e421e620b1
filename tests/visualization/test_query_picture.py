import numpy as np
import pytest
import torch

from adet_iuq.visualization.query_maps import HeatMap, QueryMaps
from adet_iuq.visualization.query_models import Picture
from adet_iuq.visualization.query_picture import Row, draw_queries


def picture(name: str, height: int, width: int) -> Picture:
    return Picture(name, np.full((height, width, 3), 100, np.uint8), torch.zeros(3, height, width, dtype=torch.uint8))


def heat(rows: int, columns: int, probability: float) -> HeatMap:
    return HeatMap(np.full((rows, columns), probability, dtype=np.float32), stride=8, offset=4)


def drawn(probability: float, rows: int = 1, others: int = 2) -> np.ndarray:
    """One other picture is wide, the next ones tall."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True
    gallery = [picture("a cost of $5 and $6.png", 32, 64), picture("tall" * 20 + ".png", 64, 24)][:others]
    sizes = [(4, 8), (8, 3)][:others]
    maps = QueryMaps(heat(8, 8, 1.0), [heat(*size, probability) for size in sizes], 1)
    return draw_queries(
        picture("own.png", 64, 64), mask, "star $_1", gallery, [Row(name, maps, 2) for name in ("base", "IUQ")[:rows]]
    )


def yellow(image: np.ndarray) -> int:
    """Pixels as bright as the hottest of the colour map, over grey."""
    red, green, blue = (image[:, :, channel].astype(int) for channel in range(3))
    return int(((red > 200) & (green > 180) & (blue < red - 30)).sum())


def test_what_fires_glows_and_nothing_else() -> None:
    hot, cold = drawn(1.0), drawn(0.0)
    assert hot.dtype == np.uint8 and hot.shape == cold.shape
    assert yellow(hot) > 1.5 * yellow(cold) > 0


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_column_for_each_picture_and_a_row_for_each_model(others: int) -> None:
    one, two = drawn(0.7, rows=1, others=others), drawn(0.7, rows=2, others=others)
    assert one.shape[1] == two.shape[1] and two.shape[0] > 1.5 * one.shape[0]
    assert drawn(0.7, others=others).shape[1] > 300 * (2 + others)
