"""SOLVER.AMP.DTYPE auto, on machines that these tests make up."""

from pathlib import Path

import pytest
import torch

from adet_iuq.config import get_cfg
from adet_iuq.engine.loop import precision
from adet_iuq.engine.loop.step import autocast_dtype

AVX2 = "flags\t\t: fpu avx avx2 fma"


def chosen(device: str) -> torch.dtype | None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = device, True, "auto"
    return autocast_dtype(cfg)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([AVX2, AVX2], None),
        ([f"{AVX2} avx512f avx512_vnni"], None),
        ([f"{AVX2} avx512f avx512_bf16"] * 2, torch.bfloat16),
        ([f"{AVX2} amx_tile amx_bf16 amx_int8"], torch.bfloat16),
        ([f"{AVX2} avx512_bf16", AVX2], None),
        (["Features\t: fp asimd bf16"], None),
    ],
)
def test_a_cpu_takes_bfloat16_if_all_its_cores_have_it(
    cores: list[str], expected: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("".join(f"processor\t: {i}\n{core}\nbugs\t\t: none\n\n" for i, core in enumerate(cores)))
    monkeypatch.setattr(precision, "_CPUINFO", cpuinfo)
    assert chosen("cpu") == expected


def test_where_linux_says_nothing_all_stays_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "none")
    assert chosen("cpu") is None


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 0), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_gpu_takes_bfloat16_unless_it_only_emulates_it(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert chosen("cuda") == expected


def test_the_choice_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with caplog.at_level("INFO", logger=precision.__name__):
        assert [chosen("cuda:5") for _ in range(3)] == [torch.bfloat16] * 3
    assert [record.getMessage() for record in caplog.records if "cuda:5" in record.getMessage()] == [
        "SOLVER.AMP.DTYPE auto: bfloat16 on cuda:5, which it has."
    ]


def test_off_stays_off() -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.DTYPE = "cpu", "auto"
    assert autocast_dtype(cfg) is None
