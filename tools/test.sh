#!/usr/bin/env bash
# Installs what is missing, then runs ruff, mypy and pytest, which leaves out the tests marked slow and has one process of one
# thread a core (at most 8). Arguments go to pytest instead: bash tools/test.sh -m slow, bash tools/test.sh -m golden -k condinst
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
echo "== ruff"
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
echo "== mypy"
folders=(adet_iuq tools tests datasets examples)
[ -d projects ] && folders+=(projects)
.venv/bin/python -m mypy "${folders[@]}"
echo "== pytest"
if [ $# -eq 0 ]; then
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  set -- -m "not slow" -n auto --maxprocesses 8 --dist loadfile
fi
.venv/bin/python -m pytest -q "$@"
