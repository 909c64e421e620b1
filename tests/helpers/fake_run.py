"""Stands in for a training of a study: python fake_run.py FOLDER ARM SEED STEPS.

It counts to STEPS, 20 a second, and leaves what a training leaves. SIGTERM makes it save its count, from which it goes on,
and exit with 75. The arm "bad" fails until a file `mended` lies beside its folder.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

INTERRUPTED = 75


def main(folder: Path, arm: str, seed: int, steps: int) -> None:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    if arm == "bad" and not (folder.parent / "mended").exists():
        print("a line of the log\nUserError: this arm is bad")
        sys.exit(2)
    last = folder / "last_checkpoint"
    start = int(last.read_text()) if last.exists() else 0
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()} {start}\n")
    for step in range(start, steps):
        (folder / "count.txt").write_text(f"{step + 1}")
        time.sleep(0.05)
        if asked:
            last.write_text(f"{step + 1}")
            sys.exit(INTERRUPTED)
    (folder / "model_final.pth").touch()
    leave_files(folder, arm, seed)


def leave_files(folder: Path, arm: str, seed: int) -> None:
    """The files of a finished run of ten iterations."""
    (folder / "config.yaml").write_text(
        f"MODEL:\n  DEVICE: cpu\n  NAME: {arm}\nOUTPUT_DIR: {folder}\nSEED: {seed}\nSOLVER:\n  MAX_ITER: 10\n"
    )
    (folder / "results.json").write_text(json.dumps({"val": {"segm": {"AP": 10.0 * seed + len(arm), "APl": None}}}))
    lines = [{"iteration": i, "loss_mask": float(i), "iuq/fire_rate": 0.5, "lr": 1.0} for i in (0, 7, 8, 9)]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"iteration": 10}]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
