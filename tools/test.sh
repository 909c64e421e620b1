#!/usr/bin/env bash
# Installs what is missing, then runs ruff, mypy and pytest. Arguments go to pytest: bash tools/test.sh -m golden -k condinst
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
.venv/bin/python -m pytest -q "$@"
