import copy
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from adet_iuq.reporting.matching import IOU, Matches, match
from helpers.report_run import CAT, DETECTIONS, DOG, OBJECTS, SIZE, Entry, detection, source, square, truth


def matched(objects: list[Entry], detections: list[Entry], images: int = 2, **how: Any) -> Matches:
    return match(truth(copy.deepcopy(objects), images), copy.deepcopy(detections), source(**how))


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_known_matches(task: str) -> None:
    found = matched(OBJECTS, DETECTIONS, task=task)
    assert found.names == ["cat", "dog"]
    assert found.match.tolist() == [0, -1, -1, 2, -1, -1]
    assert found.counted.tolist() == [True, True, True, False, True, True]
    assert found.hit.tolist() == [True, False, False, False, False, False]
    assert found.found_by.tolist() == [0, -1, 3, -1, -1]
    assert found.object_counted.tolist() == [True, True, False, True, True]
    assert found.image.tolist() == [0, 0, 0, 0, 1, 1] and found.category.tolist() == [0, 0, 1, 1, 0, 0]


def test_only_so_many_detections_of_an_image_and_a_class_count() -> None:
    found = matched(
        [square(0, 0)], [detection(0, 0, 0.2), detection(30, 0, 0.9), detection(30, 20, 0.8)], max_detections=2
    )
    assert found.counted.tolist() == [False, True, True] and found.found_by.tolist() == [-1]


def test_ids_may_be_words() -> None:
    content = truth([square(0, 0, image=2)])
    for entry, key in [(one, "id") for one in content["images"]] + [
        (one, "image_id") for one in content["annotations"]
    ]:
        entry[key] = f"image {entry[key]}"
    prediction = {**detection(0, 0, 0.5), "image_id": "image 2"}
    assert match(content, [prediction], source()).match.tolist() == [0]


def test_masks_have_the_size_of_the_image_file() -> None:
    """Where the JSON file swaps width and height, polygons are drawn in the size that predictions have."""
    content = truth([{**square(45, 0), "segmentation": [[45, 0, 55, 0, 55, 10, 45, 10]]}])
    content["images"][0].update(height=SIZE[1], width=SIZE[0])
    assert match(content, [detection(45, 0, 0.5)], source()).match.tolist() == [0]


def test_without_detections_or_objects() -> None:
    nothing = matched(OBJECTS, [])
    assert nothing.scores.shape == (0,) and nothing.found_by.tolist() == [-1] * len(OBJECTS)
    assert not matched([], DETECTIONS).hit.any()


def test_lvis_counts_a_class_where_it_is_labelled() -> None:
    content = truth([square(0, 0), square(20, 0, category=DOG, image=2)])
    for annotation in content["annotations"]:
        del annotation["iscrowd"]  # LVIS has none
    for image, negative, partly in zip(content["images"], ([], [CAT]), ([CAT], []), strict=True):
        image.update(neg_category_ids=negative, not_exhaustive_category_ids=partly)
    detections = [
        detection(0, 0, 0.9),  # right
        detection(30, 20, 0.8),  # wrong, but not all cats of that image are labelled
        detection(30, 20, 0.7, category=DOG),  # whether image 1 shows dogs is not known
        detection(0, 0, 0.6, image=2),  # wrong: image 2 shows no cat
        detection(0, 0, 0.5, category=DOG, image=2),  # wrong
    ]
    found = match(content, detections, source(rules="lvis", max_detections=300))
    assert found.counted.tolist() == [True, False, False, True, True]
    assert found.match.tolist() == [0, -1, -1, -1, -1]


def test_lvis_counts_the_best_detections_of_an_image_over_all_classes() -> None:
    content = truth([square(0, 0), square(20, 0, category=DOG)])
    detections = [detection(0, 0, 0.5), detection(20, 0, 0.9, category=DOG)]
    assert match(content, detections, source(rules="lvis", max_detections=1)).counted.tolist() == [False, True]


def obvious(content: Entry, detections: list[Entry]) -> tuple[list[int], list[bool]]:
    """`match` and `counted`, slowly: image by image, class by class, the most certain detection first."""
    masks = [mask_util.decode(one["segmentation"]).astype(bool) for one in content["annotations"]]
    result, counted, taken = [-1] * len(detections), [True] * len(detections), set()
    for index in sorted(range(len(detections)), key=lambda i: -detections[i]["score"]):
        one = detections[index]
        mine = mask_util.decode(one["segmentation"]).astype(bool)
        best, place, crowd = IOU, -1, -1
        for number, annotation in enumerate(content["annotations"]):
            if (annotation["image_id"], annotation["category_id"]) != (one["image_id"], one["category_id"]):
                continue
            common = (mine & masks[number]).sum()
            if annotation["iscrowd"]:
                if common / mine.sum() >= IOU:
                    crowd = number
            elif number not in taken and common / (mine | masks[number]).sum() >= best:
                best, place = common / (mine | masks[number]).sum(), number
        taken.add(place)
        result[index] = place if place >= 0 else crowd
        counted[index] = place >= 0 or crowd < 0
    return result, counted


@pytest.mark.parametrize("seed", range(5))
def test_random_scenes_give_what_the_slow_twin_finds(seed: int) -> None:
    random = np.random.default_rng(seed)

    def somewhere() -> dict[str, int]:
        x, y, side = (int(random.integers(low, high)) for low, high in ((0, 45), (0, 28), (6, 12)))
        return {
            "x": x,
            "y": y,
            "side": side,
            "category": (CAT, DOG)[random.integers(2)],
            "image": int(random.integers(1, 4)),
        }

    places = [somewhere() for _ in range(40)]
    objects = [square(**place, iscrowd=int(random.random() < 0.05)) for place in places]
    detections = [detection(**place, score=float(random.random())) for place in [somewhere() for _ in range(30)]]
    for place in places[::2]:
        near = {**place, "x": place["x"] + int(random.integers(3)), "y": place["y"] + int(random.integers(3))}
        detections.append(detection(**near, score=float(random.random())))
    expected = obvious(truth(objects, 3), detections)
    found = matched(objects, detections, 3)
    assert (found.match.tolist(), found.counted.tolist()) == expected
    assert found.hit.sum() > 5
