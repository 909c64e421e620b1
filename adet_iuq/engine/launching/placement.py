"""The place among the others of a process that torchrun or SLURM started, read from its environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """A process's place.

    Attributes:
        rank: the number of the process among all.
        world_size: the number of all processes.
        local_rank: its number among the processes of this machine.
        local_size: the number of processes of this machine, which is the same on every machine.
        url: the address where they meet, in the form of `init_process_group`.
        restarts: how often the group was started again after a failure.
        starter: the name of the starter, for messages.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    url: str
    restarts: int = 0
    starter: str = ""


def placement(environment: Mapping[str, str], own_launch: bool) -> Placement | None:
    """The place by torchrun or, unless the flags ask for our own launch, by SLURM; None if neither started the process.

    Args:
        environment: the environment variables, `os.environ`.
        own_launch: whether --num-gpus or --num-machines is given. Then
            srun started one task per machine, which starts the others.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if own_launch or "SLURM_PROCID" not in environment:
        return None
    return _of_slurm(environment)


def _of_torchrun(environment: Mapping[str, str]) -> Placement:
    world_size = int(environment["WORLD_SIZE"])
    return Placement(
        rank=int(environment["RANK"]),
        world_size=world_size,
        local_rank=int(environment.get("LOCAL_RANK", 0)),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", world_size)),
        url="env://",
        restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)),
        starter="torchrun",
    )


def _of_slurm(environment: Mapping[str, str]) -> Placement | None:
    """The place of this process if SLURM started one task for each process; None if there is a single task.

    `restarts` is the number of times that the job was requeued.
    """
    world_size = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)
    if world_size == 1:
        return None
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environment[name] for name in names if environment.get(name)), "localhost")
    host = environment.get("MASTER_ADDR") or first_host(nodes)
    port = environment.get("MASTER_PORT") or str(20000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000)
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_NTASKS_PER_NODE") or ""
    digits = re.match(r"\d+", per_node)
    return Placement(
        rank=int(environment["SLURM_PROCID"]),
        world_size=world_size,
        local_rank=int(environment.get("SLURM_LOCALID", 0)),
        local_size=int(digits[0]) if digits else world_size,
        url=f"tcp://{host}:{port}",
        restarts=int(environment.get("SLURM_RESTART_COUNT", 0)),
        starter="SLURM",
    )


def first_host(nodes: str) -> str:
    """The first machine of SLURM's shorthand: "gpu[03-05,11]-ib,cpu1" gives "gpu03-ib"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else nodes)
