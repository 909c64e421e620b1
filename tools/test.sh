#!/usr/bin/env bash
# Installs what is missing, then checks and tests. CONTRIBUTING.md says how long each takes.
#   bash tools/test.sh           ruff, mypy, and the tests that are not marked slow (.ci/run calls this)
#   bash tools/test.sh --fast    ruff, and of those tests the folders and files in FAST
#   bash tools/test.sh --all     ruff, mypy, and every test
# Any other arguments go to pytest: bash tools/test.sh -m golden -k condinst
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The method and what stands around the segmenters: some 1,000 tests, hardly a training or a second process among them.
FAST=(tests/{iuq,config,checkpoint,commands,evaluation,studies,visualization,release} tests/test_*.py)

bash tools/setup_env.sh
echo "== ruff"
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
if [ "${1:-}" != --fast ]; then
  echo "== mypy"
  folders=(adet_iuq tools tests datasets examples)
  [ -d projects ] && folders+=(projects)
  .venv/bin/python -m mypy "${folders[@]}"
fi

echo "== pytest"
not_slow() { # in one process of one thread a core, at most 8
  OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" \
    .venv/bin/python -m pytest -q -m "not slow" -n auto --maxprocesses 8 --dist loadfile "$@"
}
case "${1:-}" in
  "") not_slow ;;
  --fast) not_slow "${FAST[@]}" ;;
  --all)
    not_slow
    .venv/bin/python -m pytest -q -m slow # one after the other, as some of them measure time
    ;;
  *) .venv/bin/python -m pytest -q "$@" ;;
esac
