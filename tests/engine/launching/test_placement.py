"""What torchrun and SLURM tell a process about its place."""

import pytest

from adet_iuq.engine.launching.placement import Placement, first_host, placement

SLURM = {
    "SLURM_JOB_ID": "123456", "SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_RESTART_COUNT": "2",
}  # fmt: skip


def test_slurm() -> None:
    expected = Placement(9, 16, 1, 8, "tcp://gpu03:23456", restarts=2, starter="SLURM")
    assert placement(SLURM, own_launch=False) == expected
    addressed = placement({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, own_launch=False)
    assert addressed is not None and addressed.url == "tcp://10.0.0.1:29500"


def test_the_least_that_slurm_sets() -> None:
    least = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_NODELIST": "localhost"}
    assert placement(least, own_launch=False) == Placement(1, 2, 1, 2, "tcp://localhost:20000", starter="SLURM")


def test_slurm_leaves_our_own_launch_and_single_tasks_alone() -> None:
    assert placement(SLURM, own_launch=True) is None
    assert placement({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, own_launch=False) is None
    assert placement({}, own_launch=False) is None


def test_torchrun_goes_first() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    expected = Placement(3, 4, 1, 2, "env://", restarts=1, starter="torchrun")
    assert placement({**SLURM, **torchrun, "TORCHELASTIC_RESTART_COUNT": "1"}, own_launch=True) == expected


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[03-05,11]-ib,cpu1", "gpu03-ib"),
        ("rack[1-2]n[7,9]", "rack1n7"),
        ("a-b[10-12]", "a-b10"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host
