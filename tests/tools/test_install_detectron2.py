"""The installer of detectron2: what it refuses, what it mends, what it packs."""

import base64
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers.golden import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))
import detectron2_repairs
import install_detectron2
from detectron2_repairs import Repair, RepairError


def test_version_rule() -> None:
    recent = ["0.6", "0.6+pure", "0.6+cu113", "0.7.dev3", "1.0"]
    assert all(install_detectron2.is_recent(version) for version in recent)
    assert not any(install_detectron2.is_recent(version) for version in ["0.5", "0.1.3", "main"])


def test_recent_installation_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(install_detectron2, "installed_version", lambda: "0.6+cu113")
    monkeypatch.setattr(install_detectron2, "run", lambda *_: pytest.fail("it must not install"))
    assert install_detectron2.main([]) == 0
    assert "0.6+cu113 is installed; it is left alone" in capsys.readouterr().out


def test_wrong_checksum_and_missing_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "sdist.tar.gz").write_bytes(b"something else")
    assert install_detectron2.main(["--force", "--sdist", str(tmp_path / "sdist.tar.gz")]) == 1
    assert "damaged or another file" in capsys.readouterr().err
    assert install_detectron2.main(["--force", "--sdist", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(install_detectron2.InstallError, match=r"127\.0\.0\.1:9.*--sdist"):
        install_detectron2.fetch(tmp_path / "file")


def test_index_without_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pb1-detectron2").mkdir()
    monkeypatch.setattr(install_detectron2.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"<html></html>"))
    with pytest.raises(install_detectron2.InstallError, match="does not offer"):
        install_detectron2.fetch(tmp_path / "file")


def test_paths_that_lead_out_are_refused(tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside.py"), io.BytesIO(b""))
    (tmp_path / "in").mkdir()
    with pytest.raises(install_detectron2.InstallError, match=r"outside\.py"):
        install_detectron2.unpack(evil, tmp_path / "in")
    assert not (tmp_path / "outside.py").exists()


def test_repair_must_match_exactly_as_often(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = np.bool\ny = np.bool_\nz = np.int64\n")
    detectron2_repairs.repair(tmp_path, (detectron2_repairs._aliases("a.py", 1),))
    assert file.read_text() == "x = bool\ny = np.bool_\nz = np.int64\n"
    with pytest.raises(RepairError, match=r"a\.py.*matches 0 times, expected 1"):
        detectron2_repairs.repair(tmp_path, (Repair("a.py", "nothing", "", 1),))
    with pytest.raises(RepairError, match=r"b\.py"):
        detectron2_repairs.repair(tmp_path, (Repair("b.py", "x", "", 1),))


def test_requirements_are_read_without_running_setup() -> None:
    text = (
        'setup(\n    install_requires=[\n        # a comment\n        "yacs>=0.1.8",  # why\n        "tqdm",\n    ],\n)'
    )
    assert detectron2_repairs.requirements(text) == ["yacs>=0.1.8", "tqdm"]
    with pytest.raises(RepairError):
        detectron2_repairs.requirements("setup()")


def test_wheel_is_complete_and_its_record_true(tmp_path: Path) -> None:
    root = tmp_path / "sdist"
    for name in (
        "detectron2/__init__.py",
        "detectron2/model_zoo/configs/a.yaml",
        "projects/DeepLab/deeplab/loss.py",
        "LICENSE",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "setup.py").write_text('install_requires=[\n        "yacs",\n    ],\n')
    wheel = install_detectron2.build_wheel(root, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = install_detectron2.DIST_INFO
        assert {
            "detectron2/__init__.py",
            "detectron2/model_zoo/configs/a.yaml",
            "detectron2/projects/deeplab/loss.py",
        } <= set(names)
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "Name: detectron2\nVersion: 0.6+pure" in metadata and "Requires-Dist: yacs" in metadata
        rows = [row.split(",") for row in archive.read(f"{info}/RECORD").decode().splitlines()]
        assert {row[0] for row in rows} == set(names)
        for name, digest, size in rows:
            data = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert name.endswith("RECORD") or (digest == f"sha256={expected}" and int(size) == len(data))


def test_the_installed_build_raises_only_when_compiled_code_is_used() -> None:
    if install_detectron2.installed_version() != install_detectron2.VERSION:
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
