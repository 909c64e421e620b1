"""Two processes: one is killed, one is told to stop, one meets a NaN. Each run ends as documented, and resumes exactly."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers import faults
from helpers.golden import REPOSITORY

TIMING = ("time", "data_time", "eta_seconds")

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(cache: Path, **more: str) -> dict[str, str]:
    """Of a process, without what an outer launcher may have left."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC"))}
    paths = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ADET_IUQ_CACHE": str(cache), **more}


def losses(folder: Path) -> dict[int, dict[str, Any]]:
    """Every line of metrics.json by iteration, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert len({line["iteration"] for line in lines}) == len(lines)
    return {line["iteration"]: {k: repr(v) for k, v in line.items() if k not in TIMING} for line in lines}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(cache: Path) -> Run:
    """Runs the helper on two processes of this machine; returns what it printed and its exit code."""

    def go(
        output: Path, *flags: str, options: Sequence[str] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, faults.__file__, "--num-gpus", "2", *flags, *faults.TINY, "OUTPUT_DIR", str(output)]
        command += options
        return subprocess.run(
            command, env=environment(cache, **variables), capture_output=True, text=True, timeout=280, check=False
        )

    return go


@pytest.fixture(scope="module")
def unbroken(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The losses of a run that nothing happens to."""
    output = tmp_path_factory.mktemp("unbroken")
    command = [sys.executable, faults.__file__, "--num-gpus", "2", *faults.TINY, "OUTPUT_DIR", str(output)]
    subprocess.run(command, env=environment(cache), capture_output=True, timeout=280, check=True)
    found = losses(output)
    assert sorted(found) == list(range(6)) and len({line["total_loss"] for line in found.values()}) == 6
    return found


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_it_resumes_exactly(tmp_path: Path, run: Run, unbroken: dict) -> None:
    done = run(tmp_path, FAULT="kill:1:3")
    assert done.returncode == 128 + 9
    assert "rank 1 was killed by SIGKILL" in done.stderr and "--resume" in done.stderr
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert max(losses(tmp_path)) == 2 or losses(tmp_path)[2] == unbroken[2]
    assert run(tmp_path, "--resume").returncode == 0
    assert losses(tmp_path) == unbroken


def test_a_signal_to_one_rank_stops_both_after_a_checkpoint(tmp_path: Path, run: Run, unbroken: dict) -> None:
    done = run(tmp_path, FAULT="term:1:2")
    assert done.returncode == 75, done.stderr
    assert "Stopped by SIGTERM after iteration 3 of 6" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert run(tmp_path, "--resume").returncode == 0
    assert losses(tmp_path) == unbroken


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_both(tmp_path: Path, run: Run, unbroken: dict) -> None:
    done = run(tmp_path, FAULT="nan:1:3")
    assert done.returncode == 2
    assert "A loss is not finite at iteration 3" in done.stderr and "Traceback" not in done.stderr
    terms, images = re.search(r"([^:;]*) on rank 1, with the images ([^;]*)\. The weights", done.stderr).groups()  # type: ignore[union-attr]
    assert "loss_fcos_cls = nan" in terms and images.count(".png") == 2
    assert "loss_fcos_cls = nan" not in done.stderr.replace(terms, "")  # rank 0's own images are fine
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert run(tmp_path, "--resume").returncode == 0
    assert losses(tmp_path) == unbroken


@pytest.mark.slow
def test_a_memory_split_over_the_ranks_gives_the_same_losses(tmp_path: Path, run: Run, unbroken: dict) -> None:
    """Through the whole program, with parts of unequal size, which DistributedDataParallel must leave alone."""
    options = [
        "MODEL.IUQ.MEMORY.SHARD",
        "True",
        "MODEL.IUQ.MEMORY.CAPACITY",
        "401",
        "MODEL.IUQ.MEMORY.CHECK_PERIOD",
        "1",
    ]
    done = run(tmp_path, options=options, FAULT="term:1:2")
    assert done.returncode == 75, done.stderr
    assert run(tmp_path, "--resume", options=options).returncode == 0
    assert len(losses(tmp_path)) == 6
    for iteration, line in losses(tmp_path).items():
        for name in ("loss_inter", "total_loss", "iuq/num_valid_pairs"):
            assert float(line[name]) == pytest.approx(float(unbroken[iteration][name]), rel=1e-5), (iteration, name)


def memories(folder: Path) -> list[str]:
    """The digests of both ranks, which must be the same after each of the six steps."""
    first, second = ((folder / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second
    lines = first.splitlines()
    assert len(lines) == 6 and len({line.split()[2] for line in lines}) == 6
    assert [int(line.split()[1]) for line in lines] == sorted(int(line.split()[1]) for line in lines)
    return lines


@pytest.mark.slow
def test_torchrun_trains(tmp_path: Path, cache: Path, unbroken: dict) -> None:
    """Losses are those of our own launch."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command += [faults.__file__, *faults.TINY, "OUTPUT_DIR", str(tmp_path / "output")]
    command += ["MODEL.IUQ.MEMORY.CHECK_PERIOD", "1"]
    variables = environment(cache, MEMORY_LOG=str(tmp_path))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    memories(tmp_path)
    assert losses(tmp_path / "output") == unbroken


@pytest.mark.slow
def test_two_launches_of_one_process_each_train(tmp_path: Path, cache: Path, unbroken: dict) -> None:
    """As two machines would, with --num-machines."""
    flags = ["--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    processes = []
    for rank in range(2):
        command = [sys.executable, faults.__file__, *flags, "--machine-rank", str(rank), *faults.TINY]
        command += ["OUTPUT_DIR", str(tmp_path / "output")]
        variables = environment(cache, MEMORY_LOG=str(tmp_path))
        processes.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True))
    try:
        ends = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], ends
    memories(tmp_path)
    assert losses(tmp_path / "output") == unbroken


@pytest.mark.slow
def test_the_other_machine_notices_a_death(tmp_path: Path, cache: Path) -> None:
    """Its own launcher sees nothing, but the connection breaks."""
    flags = ["--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    processes = []
    for rank in range(2):
        command = [sys.executable, faults.__file__, *flags, "--machine-rank", str(rank), *faults.TINY]
        command += ["OUTPUT_DIR", str(tmp_path), "DIST.TIMEOUT_MINUTES", "1"]
        variables = environment(cache, FAULT="kill:1:2")
        processes.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True))
    try:
        ends = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 128 + 9]
    assert "lost contact with another process" in ends[0][1] and "Traceback" not in ends[0][1]
    assert "rank 1 was killed by SIGKILL" in ends[1][1]


def test_a_restart_by_torchrun_resumes(tmp_path: Path, cache: Path) -> None:
    """Rank 0 of the first life is killed; the second one goes on from its checkpoint."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--max-restarts", "1"]
    command += ["--master-port", str(free_port()), "--monitor-interval", "0.2", faults.__file__, *faults.TINY]
    variables = environment(cache, FAULT="kill:0:3")
    start = time.monotonic()
    done = subprocess.run(
        [*command, "OUTPUT_DIR", str(tmp_path)], env=variables, capture_output=True, text=True, timeout=280, check=False
    )
    # The second life starts at iteration 2 and dies of the same fault: it is still in the environment.
    assert done.returncode != 0 and time.monotonic() - start < 280
    log = (tmp_path / "log.txt").read_text()
    assert log.count("setup INFO: Restart number 1 by torchrun: --resume is implied") == 1
    assert "Resuming at iteration 2 of 6" in log


def free_port() -> int:
    """A port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
