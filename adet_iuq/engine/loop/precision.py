"""`SOLVER.AMP.DTYPE auto`: the half precision that a machine computes fast, or float32 if there is none."""

import logging
from pathlib import Path

import torch
from detectron2.utils.logger import log_first_n

_CPUINFO = Path("/proc/cpuinfo")
# Linux's names of the units that multiply in bfloat16: those of AVX-512 and AMX. Without them torch emulates bfloat16,
# which is slower than float32.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def automatic_dtype(device: str) -> torch.dtype | None:
    """The dtype of autocast that suits this machine, which is logged once.

    Args:
        device: MODEL.DEVICE, such as "cuda", "cuda:1" or "cpu".

    Returns:
        bfloat16 on GPUs and CPUs that have it, float16 on other GPUs, None (float32 throughout) elsewhere.
    """
    dtype, reason = _fast_dtype(device)
    name = str(dtype or torch.float32).removeprefix("torch.")
    log_first_n(logging.INFO, f"SOLVER.AMP.DTYPE auto: {name} on {device}, {reason}.", key="message")
    return dtype


def half_dtype(device: str) -> torch.dtype | None:
    """The same choice for a user who asks for predictions in half precision; a warning says if there is none."""
    dtype, reason = _fast_dtype(device)
    if dtype is None:
        log_first_n(logging.WARNING, f"Half precision: {device} computes in float32, {reason}.", key="message")
    return dtype


def _fast_dtype(device: str) -> tuple[torch.dtype | None, str]:
    """The half precision of a device, or None, and the reason."""
    kind = torch.device(device).type
    if kind == "cuda":
        # torch.cuda.is_bf16_supported also returns True if it is emulated, which is so before Ampere (8.0).
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return (torch.bfloat16, "which it has") if native else (torch.float16, "as it has no bfloat16")
    if kind == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16, "which it has"
    return None, "as it has no fast bfloat16"


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has AVX-512 BF16 or AMX according to Linux; False on other systems, where it is not known.

    torch's public function for this (torch.cpu.get_capabilities) is younger than the oldest version that is supported here.
    """
    if not _CPUINFO.is_file():
        return False
    flags = [line.split(":", 1)[1].split() for line in _CPUINFO.read_text().splitlines() if line.startswith("flags")]
    return bool(flags) and all(_BFLOAT16_FLAGS & set(of_core) for of_core in flags)
