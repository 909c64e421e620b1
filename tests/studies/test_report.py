"""Reports from made-up records: the numbers, the same bytes every time, and what is never mixed."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from adet_iuq.errors import UserError
from adet_iuq.studies import Study, load_study
from adet_iuq.studies.record import Record, Usage, write_record
from adet_iuq.studies.report import write_report

VALUES = {"base": (50.0, 52.0, 54.0), "inter": (51.0, 54.0, 57.0), "equi": (40.0, 41.0, 60.0)}


def made_up(folder: Path, datasets: tuple[str, ...] = ("",)) -> Study:
    """A study of three arms and three seeds, with its records in `folder`/runs."""
    (folder / "base.yaml").write_text("{}\n")
    tree = {"name": "made_up", "title": "Made up", "config": "base.yaml", "base": "base", "seeds": [1, 2, 3]}
    named: dict[str, object] = {"datasets": {name: [] for name in datasets}} if datasets != ("",) else {}
    content = {**tree, **named, "arms": {arm: [] for arm in VALUES}}
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    study = load_study(folder / "study.yaml")
    for run in study.runs():
        write_record(folder / "runs" / f"{run.name}.json", record(run.dataset, run.arm, run.seed))
    return study


def record(dataset: str, arm: str, seed: int) -> Record:
    value = VALUES[arm][seed - 1]
    cost = {"base": 100.0, "inter": 110.0, "equi": 100.0}[arm]
    return Record(
        study="made_up", dataset=dataset, arm=arm, seed=seed, overrides=[], revision="abc", config_sha256=arm, device="cpu",
        iterations=160, machine={"processor": "a CPU", "cores": 2, "torch": "2.0"}, usage=Usage(200.0, cost * seed),
        results={"val": {"segm": {"AP": value, "APs": None}}, "val_mosaic": {"segm": {"AP": value - 5}}},
        series={"iuq/fire_rate": 0.001 * seed},
    )  # fmt: skip


def change(folder: Path, name: str, **changes: object) -> None:
    run, seed = name.split(".seed")
    write_record(folder / "runs" / f"{name}.json", dataclasses.replace(record("", run, int(seed)), **changes))  # type: ignore[arg-type]


def test_the_numbers(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    text = write_report(study, [tmp_path]).read_text()
    assert "9 runs of 160 iterations, revision abc. Machine: a CPU, torch 2.0." in text
    assert "| arm | n | cost | segm/AP | val_mosaic/segm/AP |" in text
    assert "| base | 3 | 1.00 | 52.00 ± 2.00 | 47.00 ± 2.00 |" in text
    assert "| arm | n | cost | train/iuq/fire_rate |" in text
    assert "| base | 3 | 1.00 | 0.002000 ± 0.001000 |" in text
    assert "| inter | 3 | 1.10 | 54.00 ± 3.00 |" in text
    # Differences 1, 2, 3 as in test_statistics; of equi -10, -11, 6.
    assert "| inter | +2.00 [-0.48, +4.48] |" in text
    assert "| equi | -5.00 [-28.70, +18.70] |" in text


def test_a_control_has_a_table_of_its_own(tmp_path: Path) -> None:
    study = dataclasses.replace(made_up(tmp_path), controls=("inter",))
    text = write_report(study, [tmp_path]).read_text()
    own = text[text.index("Difference to inter") : text.rindex("Mean ±")]
    assert "| base | -2.00 [-4.48, +0.48] |" in own and "| inter |" not in own
    assert "Difference to base" in text


def test_an_interval_clear_of_zero_is_bold(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    for seed in (1, 2, 3):
        change(
            tmp_path, f"inter.seed{seed}", results={"val": {"segm": {"AP": VALUES["base"][seed - 1] + 2 + 0.1 * seed}}}
        )
    assert "| inter | **+2.20 [+1.95, +2.45]** |" in write_report(study, [tmp_path]).read_text()


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    study = made_up(tmp_path, ("x", "y"))
    names = ("report.md", "figure_x.svg", "figure_y.svg")
    write_report(study, [tmp_path])
    before = [(tmp_path / name).read_bytes() for name in names]
    for name in names:
        (tmp_path / name).unlink()
    write_report(load_study(study.path), [tmp_path])
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert before[1] != before[2] and b"## y" in before[0]


def test_the_ap_on_the_way_is_a_column(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    assert "@" not in write_report(study, [tmp_path]).read_text()
    for run in study.runs():
        change(tmp_path, run.name, curves={"segm/AP": [(320, 40.0 + run.seed)]})
    text = write_report(study, [tmp_path]).read_text()
    assert "segm/AP@320" in text and "42.00 ± 1.00" in text


def test_what_is_measured_inside_has_figures_of_its_own(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    assert "inside.svg" not in write_report(study, [tmp_path]).read_text()
    for run in study.runs():
        results = {"val": {"segm": {"AP": 50.0}, "queries": {"fire_rate": 1.0 + run.seed, "similarity": 90.0}}}
        curves = {
            "iuq/gradient_ratio": [(20, 0.0), (40, 0.5)],
            "iuq/gradient_cosine": [(20, 0.0), (40, -0.1 * run.seed)],
        }
        change(tmp_path, run.name, results=results, **({"curves": curves} if run.arm == "inter" else {}))
    text = write_report(study, [tmp_path]).read_text()
    assert all(f"({name}.svg)" in text for name in ("figure", "inside", "gradients"))
    before = [(tmp_path / f"{name}.svg").read_bytes() for name in ("inside", "gradients")]
    write_report(study, [tmp_path])
    assert [(tmp_path / f"{name}.svg").read_bytes() for name in ("inside", "gradients")] == before
    change(tmp_path, "inter.seed1", results=results, curves={**curves, "iuq/gradient_cosine": [(40, 0.9)]})
    write_report(study, [tmp_path])
    assert [(tmp_path / f"{name}.svg").read_bytes() for name in ("inside", "gradients")][1] != before[1]


def test_revisions_are_never_mixed(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    change(tmp_path, "inter.seed2", revision="def")
    with pytest.raises(UserError, match="2 revisions of the code, abc, def"):
        write_report(study, [tmp_path])


def test_an_arm_has_one_config(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    change(tmp_path, "inter.seed2", config_sha256="other")
    with pytest.raises(UserError, match=r"config of inter\.seed2 differs"):
        write_report(study, [tmp_path])


def test_missing_runs_are_named_and_pairs_are_pairs(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    (tmp_path / "runs/base.seed3.json").unlink()
    text = write_report(study, [tmp_path]).read_text()
    assert "1 runs are missing" in text
    assert "| base | 2 |" in text and "| inter | +1.50 [-4.85, +7.85] |" in text


def test_runs_of_several_machines(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    whole = write_report(study, [tmp_path]).read_text()
    (tmp_path / "other/runs").mkdir(parents=True)
    for path in tmp_path.glob("runs/*.seed3.json"):
        path.rename(tmp_path / "other/runs" / path.name)
    assert write_report(study, [tmp_path, tmp_path / "other"]).read_text() == whole
    with pytest.raises(UserError, match=r"is in several of"):
        write_report(study, [tmp_path, tmp_path])


def test_nothing_to_report(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    with pytest.raises(UserError, match=r"no run has any of them\. There are segm/AP, train/iuq"):
        write_report(dataclasses.replace(study, metrics=("box/AP",)), [tmp_path])
    with pytest.raises(UserError, match="No finished runs of made_up"):
        write_report(study, [tmp_path / "empty"])
