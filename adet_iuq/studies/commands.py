"""The command of a run, both as the runner starts it and as people submit it to a cluster."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from adet_iuq.studies.revision import Code
from adet_iuq.studies.study import Run, Study

# If a run is started for every core, threads and data workers would only compete.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NO_WORKERS = ("DATALOADER.NUM_WORKERS", "0")
LAUNCHERS = ("local", "torchrun", "slurm")


def words(study: Study, run: Run, code: Code, folder: Path, defaults: Sequence[str] = ()) -> list[str]:
    """The words for train_net.py, with --resume, so that the same command continues a killed run.

    Args:
        study: the study.
        run: the run of the study.
        code: the code of the study.
        folder: the run's OUTPUT_DIR.
        defaults: overrides that those of the study take precedence over.
    """
    own = ["SEED", str(run.seed), "OUTPUT_DIR", str(folder)]
    config = str(code.counterpart(study.config))
    projects = [word for folder in study.projects for word in ("--project", str(code.counterpart(folder)))]
    return ["--resume", *projects, "--config-file", config, *defaults, *run.overrides, *own]


def command(study: Study, run: Run, code: Code, folder: Path, gpu: bool = False) -> list[str]:
    """The program that the runner starts, in one process; on a GPU it has the config's own number of data workers."""
    tool = str(code.folder / "tools" / "train_net.py")
    return [sys.executable, tool, *words(study, run, code, folder, () if gpu else NO_WORKERS)]


def printed_command(study: Study, run: Run, code: Code, folder: Path, launcher: str) -> str:
    """A line for a shell that trains the same run.

    Args:
        study: the study, as for `words`, with absolute paths.
        run: the run of the study.
        code: the code of the study.
        folder: the run's OUTPUT_DIR, absolute.
        launcher: "local": one process, as the runner starts it; "torchrun": a process for each GPU of the machine;
            "slurm": a job of tools/slurm/train.sbatch, whose head describes how to set nodes and GPUs.
    """
    path = f"PYTHONPATH={shlex.quote(str(code.folder))}"
    tool = str(code.folder / "tools" / "train_net.py")
    if launcher == "local":
        threads = " ".join(f"{key}={value}" for key, value in ONE_THREAD.items())
        return f"{path} {threads} python {shlex.join([tool, *words(study, run, code, folder, NO_WORKERS)])}"
    if launcher == "torchrun":
        start = ["torchrun", "--standalone", "--nproc-per-node", "gpu", tool]
        return f"{path} {shlex.join([*start, *words(study, run, code, folder)])}"
    # The batch script is the checkout's. It starts the study's code in the folder where sbatch is called: relative paths
    # of data sets start there.
    start = ["sbatch", f"--job-name={run.name}", str(code.origin / "tools" / "slurm" / "train.sbatch")]
    line = shlex.join([*start, *words(study, run, code, folder)[1:]])  # the script resumes by itself
    return f"ADET_IUQ_CODE={shlex.quote(str(code.folder))} {path} {line}"
