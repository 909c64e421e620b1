"""The detectron2 installer, on small made-up trees and sdists; nothing is downloaded or installed."""

import base64
import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from helpers.golden import REPOSITORY

TOOLS = REPOSITORY / "tools"
sys.path.insert(0, str(TOOLS))
import detectron2_repairs as repairs  # noqa: E402
import install_detectron2 as installer  # noqa: E402

SETUP = """\
setup(
    install_requires=[
        # a comment
        "Pillow>=7.1",  # why
        "iopath>=0.1.7,<0.1.10",
        "dataclasses; python_version<'3.7'",
        "black==21.4b2",
    ],
    extras_require={"all": ["shapely"]},
)
"""


def fake_tree(root: Path) -> Path:
    """A tree in which every repair matches as often as it must: its pattern's text, repeated."""
    texts = {
        r"\bnp\.(bool|int|float|str)\b": "x = np.float\n",
        r"\bImage\.LINEAR\b": "y = Image.LINEAR\n",
        r"^import pkg_resources\n": "import os\nimport pkg_resources\n",
        r"^from detectron2 import _C$": "from detectron2 import _C\n",
        r"^import torch\n": "import torch\n",
        r"^from \.api import \*\n": "from .api import *\n",
        r'f"not built correctly: \{e\}"': 'e = 1\nz = f"not built correctly: {e}"\n',
        r"\btorch\.ops\.detectron2\.nms_rotated\(": "keep = torch.ops.detectron2.nms_rotated(1)\n",
    }
    content: dict[str, str] = {
        "detectron2/__init__.py": '__version__ = "0.6"\n',
        "detectron2/evaluation/fast_eval_api.py": "from detectron2 import _C\n",
        "detectron2/model_zoo/configs/COCO/a.yaml": "A: 1\n",
        "detectron2/model_zoo/configs/common/models/b.py": "b = 1\n",
        "LICENSE": "Apache\n",
        "setup.py": SETUP,
    }
    for one in repairs.REPAIRS:
        if "resource_filename" in one.pattern:
            call = (
                'pkg_resources.resource_filename(\n    "detectron2.model_zoo", os.path.join("configs", config_path)\n)'
            )
            text = f"file = {call}\n"
        else:
            text = texts[one.pattern] * one.count
        content[one.file] = content.get(one.file, "") + text
    for folder in [*installer.PROJECTS.values(), "detectron2/projects", *(str(Path(name).parent) for name in content)]:
        if folder.startswith(("detectron2/", "projects/")) and "configs" not in folder:
            content.setdefault(f"{folder}/__init__.py", "")
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def fake_sdist(folder: Path) -> Path:
    tree = fake_tree(folder / "pb1-detectron2-0.6")
    sdist = folder / "sdist.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(tree, tree.name)
    return sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel made from the made-up sdist through the installer's own command line, with the setuptools that is here."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("sdist")
    sdist = fake_sdist(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installer, "SHA256", hashlib.sha256(sdist.read_bytes()).hexdigest())
        patch.setattr(installer, "install", lambda wheel: None)
        patch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # how pip reads it: no isolation, and no download
        assert installer.main(["--force", "--sdist", str(sdist), "--wheel-dir", str(folder / "wheels")]) == 0
    return zipfile.ZipFile(folder / "wheels" / "detectron2-0.6+pure-py3-none-any.whl")


def test_the_wheel_is_complete_and_its_record_is_right(built: zipfile.ZipFile) -> None:
    info = "detectron2-0.6+pure.dist-info"
    metadata = built.read(f"{info}/METADATA").decode()
    assert "Name: detectron2\nVersion: 0.6+pure\n" in metadata
    assert metadata.count("Requires-Dist") == 2  # black and dataclasses are gone
    assert "Requires-Dist: Pillow>=7.1\n" in metadata and "Requires-Dist: iopath>=0.1.7\n" in metadata
    assert b"Tag: py3-none-any" in built.read(f"{info}/WHEEL")
    names = set(built.namelist())
    (licence,) = [name for name in names if name.endswith("/LICENSE")]  # its folder depends on setuptools
    assert built.read(f"{info}/top_level.txt") == b"detectron2\n" and built.read(licence)
    assert {f"detectron2/model_zoo/configs/{file}" for file in ("COCO/a.yaml", "common/models/b.py")} <= names
    assert {f"detectron2/projects/{name}/__init__.py" for name in installer.PROJECTS} <= names
    assert "setup.py" not in names
    recorded = list(csv.reader(io.StringIO(built.read(f"{info}/RECORD").decode())))
    assert {row[0] for row in recorded} == names
    for name, digest, size in recorded:
        if name == f"{info}/RECORD":
            assert digest == size == ""
            continue
        data = built.read(name)
        expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert digest == f"sha256={expected}" and int(size) == len(data)


def test_every_repair_is_in_the_wheel(built: zipfile.ZipFile) -> None:
    sources = {name: built.read(name).decode() for name in built.namelist() if name.endswith(".py")}
    code = "".join(text for name, text in sources.items() if not name.endswith("missing_ops.py"))
    for broken in ("np.float", "Image.LINEAR", "pkg_resources", "from detectron2 import _C", "torch.ops.detectron2"):
        assert broken not in code, broken
    assert "class COCOeval_opt(COCOeval)" in sources["detectron2/evaluation/fast_eval_api.py"]
    assert "except ImportError" in sources["detectron2/export/__init__.py"]
    assert "from detectron2.layers.missing_ops import _C" in sources["detectron2/layers/nms.py"]
    for name, text in sources.items():
        compile(text, name, "exec")


def test_a_missing_operator_complains_only_when_used() -> None:
    names: dict[str, Any] = {}
    exec(repairs.MISSING_OPS, names)
    stub = names["_C"]
    assert not hasattr(stub, "__wrapped__")  # inspect and torch.jit ask for such names
    with pytest.raises(RuntimeError, match=r"nms_rotated.*pure-Python build.*torchvision"):
        stub.nms_rotated(1, 2)


@pytest.mark.parametrize("file", sorted({one.file for one in (*repairs.REPAIRS, *repairs.REQUIREMENT_REPAIRS)}))
def test_a_repair_that_does_not_match_names_the_file(tmp_path: Path, file: str) -> None:
    root = fake_tree(tmp_path)
    (root / file).write_text("nothing to mend\n")
    with pytest.raises(repairs.RepairError, match=f"{file}: the pattern .* matches 0 times, expected"):
        repairs.repair(root)


def test_a_repair_that_matches_too_often_or_lacks_its_file_is_an_error(tmp_path: Path) -> None:
    root = fake_tree(tmp_path)
    file = root / "detectron2/data/transforms/transform.py"
    file.write_text("a = Image.LINEAR\nb = Image.LINEAR\n")
    with pytest.raises(repairs.RepairError, match=r"transform\.py.* matches 2 times, expected 1"):
        repairs.repair(root)
    file.unlink()
    only = tuple(one for one in repairs.REPAIRS if one.file.endswith("transforms/transform.py"))
    with pytest.raises(repairs.RepairError, match=r"no such file.*transform\.py"):
        repairs.repair(root, only)


def test_only_the_aliases_that_numpy_dropped_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = np.bool\ny = np.bool_\nz = np.int64\n")
    repairs.repair(tmp_path, (repairs._aliases("a.py", 1),))
    assert (tmp_path / "a.py").read_text() == "x = bool\ny = np.bool_\nz = np.int64\n"


def test_requirements_are_read_without_running_setup() -> None:
    assert repairs.requirements(SETUP)[0] == "Pillow>=7.1"
    with pytest.raises(repairs.RepairError, match="install_requires"):
        repairs.requirements("setup()")


def test_the_installed_build_raises_only_when_compiled_code_is_used() -> None:
    if installer.installed_version() != installer.VERSION:
        pytest.skip("an official detectron2 is installed")
    import torch
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
    from detectron2.layers import nms_rotated
    from detectron2.layers.rotated_boxes import pairwise_iou_rotated
    from pycocotools.cocoeval import COCOeval

    assert issubclass(COCOeval_opt, COCOeval)
    boxes = torch.zeros(1, 5)
    for call in (lambda: pairwise_iou_rotated(boxes, boxes), lambda: nms_rotated(boxes, torch.zeros(1), 0.5)):
        with pytest.raises(RuntimeError, match="pure-Python build"):
            call()


def test_a_replaced_file_must_be_the_published_one(tmp_path: Path) -> None:
    root = fake_tree(tmp_path)
    (root / "detectron2/evaluation/fast_eval_api.py").write_text("import something_else\n")
    with pytest.raises(repairs.RepairError, match="fast_eval_api"):
        repairs.replace_files(root)


@pytest.mark.parametrize("lost", ["detectron2/model_zoo/configs/COCO/a.yaml", "projects/DeepLab/deeplab/__init__.py"])
def test_a_tree_without_configs_or_projects_gives_no_wheel(tmp_path: Path, lost: str) -> None:
    root = fake_tree(tmp_path)
    repairs.repair(root)
    (root / lost).unlink()
    with pytest.raises(installer.InstallError, match=str(Path(lost).parts[0] if "zoo" in lost else "DeepLab")):
        installer.build_wheel(root, tmp_path)


def test_another_checksum_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sdist = fake_sdist(tmp_path)
    assert installer.main(["--force", "--sdist", str(sdist)]) == 1
    assert f"expected {installer.SHA256}" in capsys.readouterr().err
    assert installer.main(["--force", "--sdist", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../outside.py", "/tmp/absolute.py"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    sdist = tmp_path / "evil.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    (tmp_path / "in").mkdir()
    with pytest.raises(installer.InstallError, match="not a plain file inside"):
        installer.unpack(sdist, tmp_path / "in")
    assert not (tmp_path / "outside.py").exists()


@pytest.mark.parametrize(
    "version,recent",
    [
        ("0.6", True),
        ("0.6+cu113", True),
        ("0.6+pure", True),
        ("0.7.dev1", True),
        ("1.0", True),
        ("0.10", True),
        ("0.5", False),
        ("0.4.1+cu", False),
        ("main", False),
    ],
)
def test_versions(version: str, recent: bool) -> None:
    assert installer.is_recent(version) is recent


def test_a_recent_detectron2_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(installer.metadata, "version", lambda name: "0.6+cu113")
    monkeypatch.setattr(installer, "run", lambda *args: pytest.fail("must not install"))
    assert installer.main([]) == 0
    assert "0.6+cu113 is installed; it is left alone" in capsys.readouterr().out


def test_an_old_one_or_none_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(installer, "run", lambda *args: calls.append(args))
    for version in ("0.5", None):
        monkeypatch.setattr(installer, "installed_version", lambda version=version: version)
        assert installer.main([]) == 0
    assert len(calls) == 2


@pytest.mark.parametrize("version,code", [("0.6", 0), ("0.5", 1)])
def test_a_source_folder_on_the_path_counts_as_installed(tmp_path: Path, version: str, code: int) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text(f'raise SystemExit("imported")\n__version__ = "{version}"\n')
    command = [sys.executable, "-S", str(TOOLS / "install_detectron2.py"), "--sdist", str(tmp_path / "none")]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("left alone" in done.stdout) is (code == 0)


def index_page(folder: Path, link: str) -> str:
    (folder / "simple/pb1-detectron2").mkdir(parents=True)
    (folder / "simple/pb1-detectron2/index.html").write_text(f"<a href='x'>x</a>{link}")
    return (folder / "simple").as_uri()


def test_the_file_comes_from_the_index_that_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{installer.SDIST}").write_bytes(b"content")
    index = index_page(tmp_path, f'<a href="../../{installer.SDIST}#sha256=0">file</a>')
    monkeypatch.setenv("PIP_INDEX_URL", index + "/")
    assert installer.index_url() == index
    page = installer._read_url

    def with_index(url: str, timeout: int) -> bytes:  # a folder has no index.html of itself
        return page(url + "index.html" if url.endswith("/") else url, timeout)

    monkeypatch.setattr(installer, "_read_url", with_index)
    installer.fetch(tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"
    (tmp_path / "simple/pb1-detectron2/index.html").write_text("nothing here")
    with pytest.raises(installer.InstallError, match=r"does not offer pb1-detectron2-0\.6\.tar\.gz.*--sdist"):
        installer.fetch(tmp_path / "target")


@pytest.mark.parametrize("index", ["http://me:secret@127.0.0.1:9/simple", "nonsense"])
def test_an_index_out_of_reach_is_a_message_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(installer.InstallError, match="cannot be fetched") as raised:
        installer.fetch(tmp_path / "target")
    assert "--sdist FILE" in str(raised.value) and "secret" not in str(raised.value)
