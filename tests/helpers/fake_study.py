"""A runner whose trainings are fake_run.py: python fake_study.py STUDY.yaml OUTPUT JOBS STEPS."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from adet_iuq.studies import Run, Runner, load_study
from adet_iuq.studies.folder import StudyFolder


def fake_command(steps: int) -> Callable[[Run, Path], list[str]]:
    """The command of a fake run of so many steps."""

    def command(run: Run, folder: Path) -> list[str]:
        script = Path(__file__).with_name("fake_run.py")
        return [sys.executable, str(script), str(folder), run.arm, str(run.seed), str(steps)]

    return command


def fake_runner(study: Path, output: Path, jobs: int, steps: int) -> Runner:
    return Runner(load_study(study), StudyFolder(output), "abc", fake_command(steps), [dict(os.environ)] * jobs)


if __name__ == "__main__":
    sys.exit(fake_runner(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])).run())
