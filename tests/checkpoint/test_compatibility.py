import pytest

from adet_iuq.checkpoint.compatibility import Shape, compare, evaluation_problem, listing, training_problem

Shapes = dict[str, Shape]


def backbone(blocks: int, prefix: str = "backbone.bottom_up.") -> Shapes:
    return {f"{prefix}res{stage}.{b}.conv.weight": (8, 8, 3, 3) for stage in (2, 3) for b in range(blocks)}


def heads(classes: int = 80) -> Shapes:
    return {
        "proposal_generator.tower.weight": (8, 8, 3, 3),
        "proposal_generator.tower.bias": (8,),
        "proposal_generator.cls_logits.weight": (classes, 8, 3, 3),
        "proposal_generator.cls_logits.bias": (classes,),
        "controller.weight": (169, 8, 3, 3),
    }


MODEL = backbone(4) | heads(80)


def problems(file: Shapes, model: Shapes = MODEL, classes: int = 80) -> tuple[str | None, str | None]:
    """Verdicts for training and for evaluation."""
    comparison = compare(file, model, class_counts=[classes])
    return training_problem(comparison), evaluation_problem(comparison)


def test_the_same_model_fits() -> None:
    assert problems(MODEL) == (None, None)


def test_a_backbone_starts_a_training_and_is_no_model() -> None:
    training, evaluation = problems(backbone(4))
    assert training is None
    assert evaluation is not None and "missing" in evaluation


def test_an_image_classifier_is_a_backbone() -> None:
    # The names of the bottom-up network after detectron2's matching, the classifier's as they are in the file.
    file = backbone(4) | {"fc1000.weight": (1000, 8), "fc1000.bias": (1000,)}
    assert problems(file)[0] is None


def test_another_number_of_classes_starts_a_training_only() -> None:
    training, evaluation = problems(backbone(4) | heads(3))
    assert training is None
    assert (
        evaluation is not None
        and "cls_logits.weight ([3, 8, 3, 3] in the file, [80, 8, 3, 3] in the model)" in evaluation
    )


def test_a_background_class_counts_as_a_class() -> None:
    model = backbone(4) | heads(81)
    assert problems(backbone(4) | heads(4), model, classes=80)[0] is None


def test_other_shapes_are_refused() -> None:
    file = MODEL | {"controller.weight": (233, 8, 3, 3)}
    training, evaluation = problems(file)
    assert training is not None and "controller.weight" in training
    assert evaluation is not None


def test_a_dimension_beside_the_first_is_not_a_number_of_classes() -> None:
    file = MODEL | {"proposal_generator.cls_logits.weight": (3, 16, 3, 3)}
    assert problems(file)[0] is not None


def test_foreign_heads_are_refused_though_the_backbone_fits() -> None:
    file = backbone(4) | {f"roi_heads.box_head.fc{i}.weight": (8, 8) for i in range(6)}
    training = problems(file)[0]
    assert training is not None and "roi_heads.box_head.fc0.weight" in training


def test_new_parts_of_the_same_architecture_start_a_training() -> None:
    model = MODEL | {"mask_branch.logits.weight": (80, 8, 3, 3)}
    training, evaluation = problems(MODEL, model)
    assert training is None and evaluation is not None


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.bottom_up.", "backbone.0.body."])
@pytest.mark.parametrize(("there", "here"), [(2, 4), (4, 2)])
def test_a_backbone_of_another_depth_is_refused(there: int, here: int, prefix: str) -> None:
    assert problems(backbone(there, prefix) | heads(), backbone(here, prefix) | heads())[0] is not None
    assert problems(backbone(there, prefix), backbone(here, prefix) | heads())[0] is not None


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.bottom_up.", "backbone.0.body."])
def test_swin_classifiers_lack_the_output_norms(prefix: str) -> None:
    norms = {f"{prefix}norm{level}.{kind}": (8,) for level in range(4) for kind in ("weight", "bias")}
    assert problems(backbone(2, prefix), backbone(2, prefix) | norms | heads())[0] is None


def test_nothing_in_common_is_refused() -> None:
    assert problems({"layers.0.weight": (3,)})[0] is not None


def test_inessential_tensors_may_come_and_go() -> None:
    file = MODEL | {"mask_head._iter": (1,), "a.num_batches_tracked": ()}
    model = MODEL | {"mask_head.sizes_of_interest": (5,), "b.num_batches_tracked": ()}
    comparison = compare(file, model, optional=("mask_head._iter", "mask_head.sizes_of_interest"))
    assert not comparison.missing and not comparison.unexpected
    assert evaluation_problem(comparison) is None


def test_long_lists_are_cut() -> None:
    assert listing([str(i) for i in range(9)]) == "0, 1, 2, 3 and 5 more"
