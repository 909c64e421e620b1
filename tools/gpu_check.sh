#!/usr/bin/env bash
# Checks and measures the package on a machine with a GPU, also on one without a network: docs/performance.md, "On a GPU".
#
#   bash tools/gpu_check.sh                         all stages but Table 3, five minutes at most
#   bash tools/gpu_check.sh golden share            some of them
#   bash tools/gpu_check.sh table3 --table3-seconds 400
#   bash tools/gpu_check.sh --dry-run               tiny sizes on the CPU: does all of it work?
#
# GPU_CHECK_PACK (default output/gpu_pack) is the folder that tools/gpu_check_pack.sh has filled: packages, embryos and weights
# that the machine lacks. Without that folder the environment is used as it is. PYTHON (default python3) is the interpreter.
# The report is in output/gpu_check (--output FOLDER), as Markdown and as JSON, written anew after every stage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
pack="${GPU_CHECK_PACK:-output/gpu_pack}"
paths="$PWD:$PWD/tools:$PWD/tests"

if [ -d "$pack/wheels" ]; then
  site="$(mktemp -d)"
  trap 'rm -rf "$site"' EXIT
  echo "== Unpacking the packages of $pack"
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$pack"/wheels/*.whl
  paths="$paths:$site"
  export ADET_IUQ_DATA="${ADET_IUQ_DATA:-$(cd "$pack" && pwd)/data}"
fi
export PYTHONPATH="$paths${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" -m gpu_check "$@"
