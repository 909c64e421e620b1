#!/usr/bin/env bash
# Sets up .venv with everything the project needs; quick when all of it is there.
#
#   bash tools/setup_env.sh
#
# PYTHON (default python3) chooses the interpreter that makes .venv; an activated environment is left alone. ADET_IUQ_TORCH
# holds pip's arguments for torch, used when .venv has none (default "torch==2.14.1 torchvision==0.29.1"). Without a GPU
# ADET_IUQ_TORCH="torch torchvision --index-url https://download.pytorch.org/whl/cpu" saves gigabytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python_ok() { .venv/bin/python -c "$1" >/dev/null 2>&1; }

if ! python_ok "import pip"; then
  echo "== Creating .venv with $("${PYTHON:-python3}" --version)"
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "Python 3.10 or later is needed; name one with PYTHON=/path/to/python3." >&2; exit 1; }
  "${PYTHON:-python3}" -m venv .venv ||
    { echo "Creating .venv failed. On Debian and Ubuntu: apt install python3-venv." >&2; exit 1; }
fi

# The stamp holds the state of the files that decide what is installed, and the place they stand in.
stamp=.venv/.adet_iuq_setup
state="$(cat pyproject.toml setup.py tools/setup_env.sh tools/install_detectron2.py tools/detectron2_repairs.py | cksum) $PWD"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
  exit 0
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

if ! python_ok "import torch, torchvision"; then
  echo "== Installing ${ADET_IUQ_TORCH:=torch==2.14.1 torchvision==0.29.1} (the largest download)"
  # shellcheck disable=SC2086  # several words on purpose
  pip install $ADET_IUQ_TORCH
fi
echo "== Installing detectron2"
.venv/bin/python tools/install_detectron2.py
echo "== Installing adet_iuq and what it needs"
pip --quiet install "setuptools>=77" wheel
pip --quiet install --no-build-isolation -e ".[dev]"
# On its own: its metadata asks for opencv-python, also where the headless package stands.
pip --quiet install --no-deps "lvis>=0.5.3"
if ! python_ok "import cv2"; then
  echo "== opencv-python does not load here (no libGL?); the headless package serves as well"
  pip --quiet uninstall --yes opencv-python opencv-python-headless
  pip --quiet install opencv-python-headless
fi
.venv/bin/python -c "import adet_iuq.modeling, cv2, lvis, torch, torchvision, timm, supervision" ||
  { echo "The installation is not complete: see the error above." >&2; exit 1; }
echo "$state" >"$stamp"
