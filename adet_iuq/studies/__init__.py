"""Paired, seeded studies: their YAML files, the runner, the records of runs, tables and figures.

A study talks to a training through its command line and the files that it leaves behind, and imports nothing of it: the
trainings of a study are those of one revision of the code, whatever the revision of the runner is.
"""

from adet_iuq.studies.runner import Runner
from adet_iuq.studies.study import Run, Study, load_study

__all__ = ["Run", "Runner", "Study", "load_study"]
