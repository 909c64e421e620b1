"""The wheel, built, installed and used where there is no checkout."""

import email
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from helpers.golden import REPOSITORY

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml by itself")

pytestmark = pytest.mark.slow

SMALL = {
    "DATASETS.SHAPES.SIZE": 64,
    "DATASETS.SHAPES.NUM_TRAIN": 8,
    "DATASETS.SHAPES.NUM_VAL": 2,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": (),
    "SOLVER.MAX_ITER": 2,
    "REPORT.ENABLED": False,
    "OUTPUT_DIR": "run",
}
# Loads every packaged recipe by its name, and prints where the package lies.
LOAD_ALL = """
import adet_iuq, importlib.util, sys
from pathlib import Path
from adet_iuq.config import import_projects, load_config
for name in sys.argv[1:]:
    project = name.split("/configs/")[0] if name.startswith("projects/") else ""
    load_config(name, None, import_projects([project] if project else []))
print(Path(adet_iuq.__file__).parent, importlib.util.find_spec("adet_iuq.projects.Minimal") is not None)
"""

Start = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: the checkout may hold what an earlier build left."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("adet_iuq", "configs", "projects"):
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(folder / "source")], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def start(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Runs a program of an environment that has the wheel, and all else from the tests' own; returns what it prints."""
    folder = tmp_path_factory.mktemp("installed")
    create = [sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", str(folder / "env")]
    subprocess.run(create, check=True)
    programs = folder / "env" / "bin"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(programs / "python"), *install], check=True)
    # A virtual environment's own packages are no system packages, so they are named. The checkout is not among them: an
    # editable install is known by a .pth file, and those of folders named by another one are not read.
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    needed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "needed.pth").write_text("\n".join(needed) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "ADET_IUQ_CACHE": str(folder / "cache")}

    def run(program: str, *words: str, cwd: Path) -> str:
        command = [str(programs / program), *words]
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def recipes() -> list[str]:
    """Names of all YAML files of the checkout that describe a model."""
    files = [*REPOSITORY.glob("configs/**/*.yaml"), *REPOSITORY.glob("projects/*/configs/**/*.yaml")]
    names = [path.relative_to(REPOSITORY).as_posix().removeprefix("configs/") for path in files]
    return sorted(name for name in names if "Studies/" not in name)


def test_the_wheel_holds_package_configs_and_projects(wheel: Path) -> None:
    held = set(ZipFile(wheel).namelist())
    package = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("adet_iuq/**/*.py")}
    assert package | {"adet_iuq/py.typed", "adet_iuq/reporting/page.html"} <= held
    configs = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("configs/**/*.*")}
    configs |= {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("projects/*/configs/**/*.yaml")}
    configs |= {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("projects/*/*.py")}
    assert configs
    assert {f"adet_iuq/{name}" for name in configs if "__pycache__" not in name} <= held
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"adet_iuq"}
    assert not any("/tests/" in name for name in held)


def test_the_wheel_asks_for_what_pyproject_declares(wheel: Path) -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    with ZipFile(wheel) as content:
        (name,) = [one for one in content.namelist() if one.endswith(".dist-info/METADATA")]
        said = email.message_from_bytes(content.read(name))
    extras = declared["optional-dependencies"]
    assert set(said.get_all("Provides-Extra", [])) == set(extras)
    lines = said.get_all("Requires-Dist", [])
    for extra, requirements in extras.items():
        asked = [line for line in lines if f"extra == '{extra}'" in line.replace('"', "'")]
        assert len(asked) == len(requirements), extra
    plain = [line for line in lines if "extra ==" not in line]
    assert len(plain) == len(declared["dependencies"])


def test_every_recipe_loads_by_its_name(start: Start, tmp_path: Path) -> None:
    printed = start("python", "-c", LOAD_ALL, *recipes(), cwd=tmp_path)
    place, has_project = printed.splitlines()[-1].split()
    assert Path(place).parent.name == "site-packages" and REPOSITORY not in Path(place).parents
    assert has_project == str((REPOSITORY / "projects/Minimal").is_dir())


def test_training_and_prediction(start: Start, tmp_path: Path) -> None:
    assert "usage: adet-iuq" in start("adet-iuq", "--help", cwd=tmp_path)
    assert "--base-run" in start("adet-iuq", "web", "--help", cwd=tmp_path)  # of an extra
    options = [str(word) for pair in SMALL.items() for word in pair]
    start("adet-iuq", "train", "--config-file", "quickstart.yaml", *options, cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert any("loss_equi" in line for line in lines) and (tmp_path / "run/model_final.pth").is_file()
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "grey.png")
    start("adet-iuq", "predict", "grey.png", "--run", "run", "--output", "shown", cwd=tmp_path)
    assert len(json.loads((tmp_path / "shown/predictions.json").read_text())["images"]) == 1
