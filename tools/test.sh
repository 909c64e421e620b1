#!/usr/bin/env bash
# Installs what is missing, then checks and tests. CONTRIBUTING.md says how long each takes.
#   bash tools/test.sh           ruff, mypy, and the tests that are not marked slow (.ci/run calls this)
#   bash tools/test.sh --fast    ruff, and of those tests the folders and files in FAST
#   bash tools/test.sh --all     ruff, mypy, and every test
# Any other arguments go to pytest: bash tools/test.sh -m golden -k condinst
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The method, and everything whose tests are short.
FAST=(tests/iuq tests/config tests/release tests/test_import_rules.py)
# One process of one thread a core, at most 8.
PARALLEL=(-n auto --maxprocesses 8 --dist loadfile)

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
test() { .venv/bin/python -m pytest -q "$@"; }
case "${1:-}" in
  "" | --fast | --all) export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" ;;
esac
case "${1:-}" in
  "") test -m "not slow" "${PARALLEL[@]}" ;;
  --fast) test -m "not slow" "${PARALLEL[@]}" "${FAST[@]}" ;;
  --all)
    test -m "not slow" "${PARALLEL[@]}"
    test -m slow # one after the other: some of them measure time
    ;;
  *) test "$@" ;;
esac
