"""Paired, seeded studies: their YAML files, the runner, the records of runs, tables and figures.

A study uses a training only through its command line and the files that it writes, and imports nothing of it. So all
trainings of a study are those of one revision of the code, whatever the revision of the runner is.
"""

from adet_iuq.studies.runner import Runner
from adet_iuq.studies.study import Run, Study, load_study

__all__ = ["Run", "Runner", "Study", "load_study"]
