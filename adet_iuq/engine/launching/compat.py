"""Deals with the differences between detectron2 0.6 and its main branch in the parts that the engine uses."""

import torch.distributed as dist
from detectron2.utils import comm


def create_local_process_group(processes_per_machine: int) -> None:
    """Tells detectron2's `comm` which processes share this machine; every rank calls it after `init_process_group`.

    The main branch has a function for this. In 0.6 only detectron2's own launcher, which refuses to start without CUDA,
    sets the module variable that `comm` documents for this purpose.
    """
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_per_machine)
        return
    machine = dist.get_rank() // processes_per_machine
    for index in range(dist.get_world_size() // processes_per_machine):
        first = index * processes_per_machine
        # This is a collective call: every rank creates every group.
        group = dist.new_group(list(range(first, first + processes_per_machine)))
        if index == machine:
            comm._LOCAL_PROCESS_GROUP = group


def leave_process_group() -> None:
    """Ends this process's part in the group. It is the last thing to call before the process ends.

    `comm` caches the group. A group that outlives the interpreter sometimes aborts the process with its threads. Then a
    run that succeeded, or that was interrupted with everything saved, would end with SIGABRT's code.
    """
    comm._get_global_gloo_group.cache_clear()
    dist.destroy_process_group()
