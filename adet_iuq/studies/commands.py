"""The command of a run, as the runner starts it and as people submit it to a cluster."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from adet_iuq.studies.revision import Code
from adet_iuq.studies.study import Run, Study

# A run beside every core has no use for threads, nor for processes that load its data.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NO_WORKERS = ("DATALOADER.NUM_WORKERS", "0")
LAUNCHERS = ("local", "torchrun", "slurm")


def words(study: Study, run: Run, code: Code, folder: Path, defaults: Sequence[str] = ()) -> list[str]:
    """train_net.py's words; --resume, so that the same command goes on where a killed one stopped.

    Args:
        study, run: what is run.
        code: of the study.
        folder: the run's OUTPUT_DIR.
        defaults: overrides that give way to those of the study.
    """
    own = ["SEED", str(run.seed), "OUTPUT_DIR", str(folder)]
    config = str(code.counterpart(study.config))
    projects = [word for folder in study.projects for word in ("--project", str(code.counterpart(folder)))]
    return ["--resume", *projects, "--config-file", config, *defaults, *run.overrides, *own]


def command(study: Study, run: Run, code: Code, folder: Path, gpu: bool = False) -> list[str]:
    """The program that the runner starts, in one process; on a GPU with the config's own number of data workers."""
    tool = str(code.folder / "tools" / "train_net.py")
    return [sys.executable, tool, *words(study, run, code, folder, () if gpu else NO_WORKERS)]


def printed_command(study: Study, run: Run, code: Code, folder: Path, launcher: str) -> str:
    """A line for a shell that trains the same run.

    Args:
        study, run, code, folder: as for `words`; with absolute paths.
        launcher: "local": one process, as the runner starts it; "torchrun": a process for each GPU of the machine;
            "slurm": a job of tools/slurm/train.sbatch, whose head says how it is told nodes and GPUs.
    """
    path = f"PYTHONPATH={shlex.quote(str(code.folder))}"
    tool = str(code.folder / "tools" / "train_net.py")
    if launcher == "local":
        threads = " ".join(f"{key}={value}" for key, value in ONE_THREAD.items())
        return f"{path} {threads} python {shlex.join([tool, *words(study, run, code, folder, NO_WORKERS)])}"
    if launcher == "torchrun":
        start = ["torchrun", "--standalone", "--nproc-per-node", "gpu", tool]
        return f"{path} {shlex.join([*start, *words(study, run, code, folder)])}"
    # The script runs tools/train_net.py of the folder that sbatch was called in.
    start = ["sbatch", f"--job-name={run.name}", "tools/slurm/train.sbatch"]
    line = shlex.join([*start, *words(study, run, code, folder)[1:]])  # it resumes by itself
    return f"(cd {shlex.quote(str(code.folder))} && {path} {line})"
