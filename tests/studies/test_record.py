"""What a record keeps of a training's metrics.json."""

from adet_iuq.studies.record import curves

LINES = [
    {"iteration": 19, "iuq/gradient_ratio": 0.123456, "total_loss": 1.0},
    {"iteration": 19, "v/segm/AP": 31.25, "v_mosaic/segm/AP": 11.0, "v/bbox/AP": 40.0},
    {"iteration": 39, "iuq/gradient_ratio": float("nan")},
    {"iteration": 39, "v/segm/AP": 33.0},
    {"iteration": 40, "v/segm/AP": 33.0},
]


def test_the_ap_on_the_way_is_kept_and_not_that_of_the_end() -> None:
    assert curves(LINES, "v", 40)["segm/AP"] == [(20, 31.25)]
    assert "segm/AP" not in curves(LINES, "other", 40)


def test_a_run_with_one_test_set_names_its_ap_without_it() -> None:
    assert curves([{"iteration": 19, "segm/AP": 30.0}], "v", 40) == {"segm/AP": [(20, 30.0)]}


def test_gradients_are_kept_where_they_are_numbers() -> None:
    assert curves(LINES, "v", 40)["iuq/gradient_ratio"] == [(19, 0.1235)]
