"""The shipped recipes: each loads and says how it is launched, none repeats another, the method stands once."""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import get_cfg, load_config
from adet_iuq.modeling.iuq_settings import inter_settings
from helpers.golden import REPOSITORY

METHOD = "configs/iuq.yaml"
FOUND = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "configs").rglob("*.yaml"))
# Beside their bases, configs/Studies holds studies, which name a base but are no configs themselves.
FILES = [name for name in FOUND if "/Studies/" not in name or "/Base-" in name or "/Data-" in name]
# Files that others name in a list of _BASE_ and that are not launched.
PARTS = {name for name in FILES if Path(name).name.startswith(("Base-", "Data-")) or name == METHOD}
STUDY_BASES = {name for name in FILES if "/Studies/" in name}
STUDY_SHARED, STUDY_CONDINST = "configs/Studies/Base-shared.yaml", "configs/Studies/Base-lite0.yaml"
STUDY_OTHERS = {
    name for name in STUDY_BASES if Path(name).name.startswith(("Base-solov2", "Base-sotr", "Base-mask2former"))
}
STUDY_DATA = {name for name in STUDY_BASES if "/Data-" in name or name.endswith("/Pretrain-shapes.yaml")}
STUDY_SCRATCH = "configs/Studies/Base-small-nuclei-tune.yaml"
IUQ_RECIPES = [name for name in FILES if name.endswith("_iuq.yaml")]
# Pairs whose schedules differ on purpose: with the method these overfits see half as many images an iteration, or need
# fewer iterations to reach what they should.
OWN_SCHEDULE = {"configs/Mask2Former/R18_overfit_iuq.yaml", "configs/SOLOv2/R18_overfit_iuq.yaml"}
CLIPPING = ("ENABLED", "CLIP_TYPE", "CLIP_VALUE")
SCHEDULE = ("SOLVER.STEPS", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD")


@functools.cache
def leaves(name: str) -> dict[str, Any]:
    """All keys of the resolved config, by dotted name. Do not change the answer."""
    return dict(_leaves(load_config(str(REPOSITORY / name)).cfg))


def _leaves(tree: CfgNode | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def body(name: str) -> dict[str, Any]:
    """The keys that the file itself sets, without where it stands and where it writes."""
    own = dict(_leaves(yaml.safe_load((REPOSITORY / name).read_text())))
    return {key: value for key, value in own.items() if key not in ("_BASE_", "OUTPUT_DIR")}


def head(name: str) -> list[str]:
    """The comment at the top of the file, by lines."""
    lines = (REPOSITORY / name).read_text().splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


def base_of(iuq_recipe: str) -> str:
    """The recipe of the same backbone and schedule without the method: the paper's, else the published one."""
    paper, published = (iuq_recipe.replace("_iuq.yaml", end) for end in ("_paper.yaml", ".yaml"))
    return paper if paper in FILES else published


def groups_of_equals(values: dict[str, str]) -> list[list[str]]:
    counts = Counter(values.values())
    return [[name for name in values if values[name] == value] for value in counts if counts[value] > 1]


@pytest.mark.parametrize("name", FILES)
def test_a_file_loads_and_its_head_says_how_to_launch_it(name: str) -> None:
    cfg, launches = leaves(name), [line for line in head(name) if "--config-file" in line]
    assert head(name)
    if name in PARTS:
        assert not launches and "OUTPUT_DIR" not in (REPOSITORY / name).read_text()
    else:
        paths = [line.split("--config-file ", 1)[1].split()[0] for line in launches]
        assert paths == [name]
        assert cfg["OUTPUT_DIR"] != get_cfg().OUTPUT_DIR


def test_no_two_recipes_are_the_same_run() -> None:
    runs = {name: repr(sorted({**leaves(name), "OUTPUT_DIR": ""}.items())) for name in FILES if name not in PARTS}
    assert groups_of_equals(runs) == []


def test_no_two_recipes_write_to_one_folder() -> None:
    assert groups_of_equals({name: leaves(name)["OUTPUT_DIR"] for name in FILES if name not in PARTS}) == []


def test_no_two_files_have_an_identical_body() -> None:
    """What several keys say twice belongs in a common base; a single key (the meta-architecture) costs less than a file."""
    bodies = {name: repr(sorted(body(name).items())) for name in FILES if len(body(name)) > 1}
    assert groups_of_equals(bodies) == []


def test_every_file_is_launched_or_stood_upon() -> None:
    named = set()
    for name in FILES:
        bases = yaml.safe_load((REPOSITORY / name).read_text()).get("_BASE_", [])
        for base in [bases] if isinstance(bases, str) else bases:
            named.add(str((REPOSITORY / name).parent.joinpath(base).resolve().relative_to(REPOSITORY)))
    assert PARTS - STUDY_BASES <= named <= set(FILES)  # studies stand upon their bases, by name


def test_the_method_stands_once() -> None:
    key = "MODEL.IUQ.INTER.MAX_QUERIES"
    assert body(METHOD)[key] != dict(_leaves(get_cfg()))[key]
    assert [name for name in FILES if name != METHOD and key in body(name)] == []


@pytest.mark.parametrize("name", [name for name in FILES if name not in PARTS and "IUQ" in str(body(name))])
def test_the_inter_scene_loss_starts_late_and_at_the_same_strength(name: str) -> None:
    cfg = load_config(str(REPOSITORY / name)).cfg
    inter, total = inter_settings(cfg), cfg.SOLVER.MAX_ITER
    share = 0.05 if cfg.MODEL.WEIGHTS else 0.3  # of a short training from random weights
    assert inter.start_iter == round(share * total) and 0 < inter.ramp_iters <= 0.2 * total
    assert inter.neg_weight == 0.1


def test_no_recipe_counts_the_start_in_iterations() -> None:
    """A share of MAX_ITER stays right when the schedule changes."""
    keys = {"MODEL.IUQ.INTER.START_ITER", "MODEL.IUQ.INTER.RAMP_ITERS"}
    assert [name for name in FILES if keys & body(name).keys()] == []


@pytest.mark.parametrize("name", IUQ_RECIPES)
def test_an_iuq_recipe_differs_from_its_base_in_the_method_only(name: str) -> None:
    base, iuq = leaves(base_of(name)), leaves(name)
    assert iuq["MODEL.META_ARCHITECTURE"] == base["MODEL.META_ARCHITECTURE"] + "IUQ"
    assert iuq["MODEL.IUQ.INTER.MAX_QUERIES"] > 0
    changed = {key for key in iuq if iuq[key] != base[key] and not key.startswith("MODEL.IUQ.")}
    schedule = set(SCHEDULE) if name in OWN_SCHEDULE else set()
    assert changed == {"MODEL.META_ARCHITECTURE", "OUTPUT_DIR"} | schedule


def differences(name: str, base: str) -> set[str]:
    """The keys that two files resolve to different values."""
    ours, theirs = leaves(name), leaves(base)
    return {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}


def test_what_the_studies_share_is_condinst_on_a_pretrained_backbone() -> None:
    cfg = leaves(STUDY_CONDINST)
    assert cfg["MODEL.META_ARCHITECTURE"] == "CondInstIUQ"
    assert not cfg["MODEL.IUQ.INTER.ENABLED"] and not cfg["MODEL.IUQ.EQUI.ENABLED"]
    assert cfg["MODEL.WEIGHTS"] == "pretrained://" + cfg["MODEL.TIMM.NAME"]
    different = {
        key for key in differences(STUDY_CONDINST, "configs/Base-small.yaml") if not key.startswith("MODEL.IUQ.")
    }
    assert different == {
        *("MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.NAME"),
        *("MODEL.TIMM.NAME", "MODEL.TIMM.FREEZE_AT", "MODEL.TIMM.NORM_FROZEN", "MODEL.CONDINST.MASK_BRANCH.CHANNELS"),
        *("INPUT.FORMAT", "INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST"),
        *("MODEL.FPN.OUT_CHANNELS", "MODEL.FCOS.NUM_CLS_CONVS", "MODEL.FCOS.NUM_BOX_CONVS"),
        *("MODEL.CONDINST.MASK_BRANCH.NUM_CONVS", "SOLVER.STEPS", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD"),
        *("SOLVER.BASE_LR", "GUARD.GRADIENT_RATIO_PERIOD", "TEST.MOSAIC.ENABLED", "TEST.QUERY_PROBE.ENABLED"),
        "REPORT.ENABLED",
    }


@pytest.mark.parametrize(
    "name", sorted(STUDY_BASES - {STUDY_SHARED, STUDY_CONDINST, STUDY_SCRATCH} - STUDY_OTHERS - STUDY_DATA)
)
def test_the_bases_of_the_studies_differ_in_their_data_only(name: str) -> None:
    # Nuclei are small, shapes are easy, and the class loss may explode on all but embryos; nothing else may differ.
    clipped = {f"SOLVER.CLIP_GRADIENTS.{key}" for key in CLIPPING}
    shapes = {"INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", *clipped}
    natural = {*clipped, "SOLVER.BASE_LR"}
    allowed = {
        **{"shapes": shapes, "mixed": {*clipped, "TEST.MOSAIC.ENABLED"}},
        **{"nuclei": {*shapes, *natural, "SOLVER.STEPS"}, "coco": natural, "persons": natural},
    }
    others = {key for key in differences(name, STUDY_CONDINST) if not key.startswith("DATASETS.")}
    assert others <= allowed.get(Path(name).stem.split("-")[1], set())
    cfg = leaves(name)
    kind = Path(name).stem.removeprefix("Base-").replace("-", "_")
    kind = "shapes" if kind == "mixed" else kind  # both are rendered
    assert (cfg["DATASETS.TRAIN"], cfg["DATASETS.TEST"]) == ((f"{kind}_train",), (f"{kind}_val",))
    files = [entry[1] for entry in cfg["DATASETS.REGISTER"]]
    assert len(files) == len(set(files)) == (0 if kind == "shapes" else 2)


def test_the_small_recipes_rate_is_tuned_on_other_images_only() -> None:
    different = differences(STUDY_SCRATCH, "configs/CondInst/R18_nuclei_iuq.yaml")
    assert different == {"DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.REGISTER"}


@pytest.mark.parametrize("name", sorted(STUDY_OTHERS))
def test_other_segmenters_are_studied_on_the_same_backbone_and_data(name: str) -> None:
    names = {"tune": "embryos-tune", "imagenet": "embryos-tune", "embryos": "embryos", "mixed": "mixed"}
    data = names.get(Path(name).stem.split("-")[-1])
    condinst, cfg = leaves(f"configs/Studies/Base-{data}.yaml" if data else STUDY_CONDINST), leaves(name)
    shared = body(STUDY_SHARED).keys() | (body(f"configs/Studies/Data-{data}.yaml").keys() if data else set())
    # SOLOv2 learns more slowly and trains longer, Mask2Former and SOTR start from trained weights (docs/results_base.md).
    own = {
        "solov2": {"SOLVER.MAX_ITER", "SOLVER.STEPS"},
        "mask2former": {"MODEL.WEIGHTS", "SOLVER.STEPS"},
        "sotr": {"MODEL.WEIGHTS"},
    }
    allowed = own.get(Path(name).stem.split("-")[1], set())
    if name.endswith("-imagenet.yaml"):
        allowed = set()
    assert "MODEL.WEIGHTS" in shared and {key for key in shared if cfg[key] != condinst[key]} == allowed
    assert cfg["SOLVER.MAX_ITER"] >= condinst["SOLVER.MAX_ITER"]


@pytest.mark.parametrize("kind", ["embryos", "nuclei"])
def test_what_is_tuned_on_reads_no_image_of_val(kind: str) -> None:
    cfg = leaves(f"configs/Studies/Base-{kind}-tune.yaml")
    assert {entry[2] for entry in cfg["DATASETS.REGISTER"]} == {f"$ADET_IUQ_DATA/{kind}/train"}


@pytest.mark.parametrize("segmenter", ["mask2former", "sotr"])
def test_the_studies_start_where_their_pretraining_ends(segmenter: str) -> None:
    pretraining = leaves(f"configs/Studies/Pretrain-{segmenter}.yaml")
    assert pretraining["MODEL.WEIGHTS"] == leaves(STUDY_SHARED)["MODEL.WEIGHTS"]
    assert not pretraining["MODEL.IUQ.INTER.ENABLED"] and not pretraining["MODEL.IUQ.EQUI.ENABLED"]
    start = leaves(f"configs/Studies/Base-{segmenter}.yaml")["MODEL.WEIGHTS"]
    assert start == f"{pretraining['OUTPUT_DIR']}/model_final.pth"


def test_no_recipe_names_a_folder_beside_the_checkout() -> None:
    paths = [(name, path) for name in FILES for entry in leaves(name)["DATASETS.REGISTER"] for path in entry[1:]]
    assert paths and [found for found in paths if not found[1].startswith(("$ADET_IUQ_DATA/", "output/"))] == []
