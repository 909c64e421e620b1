#!/usr/bin/env bash
# Installs what is missing, then trains, evaluates and draws a small CondInst with instance-unique querying on the embedded
# scenes: minutes on two CPU cores. A second run reuses what is there; --force trains anew. Further arguments are config
# overrides: bash tools/quickstart.sh --force SOLVER.MAX_ITER 1000
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh

output=output/quickstart
config=configs/quickstart.yaml
if [ "${1:-}" = --force ]; then
  shift
  rm -rf "$output"
fi
if [ ! -f "$output/model_final.pth" ] || [ ! -f "$output/results.json" ] || [ $# -gt 0 ]; then
  echo "== Training and evaluating ($config)"
  .venv/bin/python tools/train_net.py --config-file "$config" --resume OUTPUT_DIR "$output" "$@"
else
  echo "== $output/model_final.pth is there already (--force trains anew)"
fi
if [ ! -d "$output/pictures" ] || [ "$output/model_final.pth" -nt "$output/pictures" ]; then
  echo "== Drawing predictions beside the ground truth"
  .venv/bin/python tools/visualize_results.py --config-file "$config" --weights "$output/model_final.pth" \
    --output "$output/pictures" OUTPUT_DIR "$output"
fi
echo
.venv/bin/python - "$output/results.json" <<'END'
import json
import sys

import adet_iuq.program  # warnings of imports

from adet_iuq.evaluation import print_results

with open(sys.argv[1]) as file:
    results = json.load(file)
print_results(results if len(results) > 1 else next(iter(results.values())), list(results))
END
echo "Metrics: $output/metrics.json   log: $output/log.txt   checkpoint: $output/model_final.pth   pictures: $output/pictures"
if [ -f "$output/report.html" ] || .venv/bin/python tools/report.py "$output"; then
  echo "Report: open $output/report.html in a browser (docs/report.md says what is on it)"
fi
echo "See the masks, and where the query of an instance fires, in your browser:"
echo "  .venv/bin/python tools/web_demo.py --run $output"
