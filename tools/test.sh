#!/usr/bin/env bash
# Installs what is missing, then runs ruff, mypy and pytest, which leaves out the tests marked slow. Arguments go to pytest
# instead: bash tools/test.sh -m slow, bash tools/test.sh -m golden -k condinst
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
[ $# -gt 0 ] || set -- -m "not slow"
.venv/bin/python -m pytest -q "$@"
