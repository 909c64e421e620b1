"""Facts that a run's other files lack but its report needs: an evaluation's config, the code's revision, the machine."""

import datetime
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml

import adet_iuq
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file
from adet_iuq.studies.revision import REVISION_FILE, is_checkout

FACTS_FILE = "report.json"
CONFIG_FILE = "config.yaml"
# The entries that a reader looks for first: the label, and the key in the config.
_SUMMARY = (
    ("Meta-architecture", "MODEL.META_ARCHITECTURE"),
    ("Weights to start from", "MODEL.WEIGHTS"),
    ("Trained on", "DATASETS.TRAIN"),
    ("Evaluated on", "DATASETS.TEST"),
    ("Iterations", "SOLVER.MAX_ITER"),
    ("Images per batch", "SOLVER.IMS_PER_BATCH"),
    ("Optimiser", "SOLVER.OPTIMIZER"),
    ("Learning rate", "SOLVER.BASE_LR"),
    ("Mixed precision", "SOLVER.AMP.ENABLED"),
    ("Sizes in training", "INPUT.MIN_SIZE_TRAIN"),
    ("Size in tests", "INPUT.MIN_SIZE_TEST"),
    ("Inter-scene term", "MODEL.IUQ.INTER.ENABLED"),
    ("Equivariance term", "MODEL.IUQ.EQUI.ENABLED"),
    ("Seed", "SEED"),
)


@dataclass(frozen=True)
class Facts:
    """The facts of a run.

    Attributes:
        environment: what ran where, by label.
        config: the whole config as YAML text; empty if it is not known.
    """

    environment: dict[str, str]
    config: str

    @property
    def values(self) -> Mapping[str, Any]:
        """The config as nested dicts; empty if it is not known or not YAML."""
        try:
            values = yaml.safe_load(self.config)
        except yaml.YAMLError:
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def summary(self) -> dict[str, str]:
        """The entries that a reader looks for first, by their labels."""
        values = self.values  # each access parses the text again
        found = {name: config_value(values, key, None) for name, key in _SUMMARY}
        return {name: _text(value) for name, value in found.items() if value is not None}


def config_value(values: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of a key such as "SEED" or "INPUT.FORMAT"."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return default
        found = found[part]
    return found


def write_facts(folder: str, config: str, device: str, processes: int) -> None:
    """Writes OUTPUT_DIR/report.json.

    Args:
        folder: OUTPUT_DIR.
        config: the whole config as YAML text.
        device: a description of the model's device for people.
        processes: the number of processes.

    Raises:
        UserError: the file cannot be written.
    """
    environment = {
        "started": datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
        "adet_iuq": f"{adet_iuq.__version__} ({revision()})",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "detectron2": str(detectron2.__version__),
        "device": f"{processes} x {device}" if processes > 1 else device,
        "system": platform.platform(terse=True),
    }
    text = json.dumps(asdict(Facts(environment, config)), indent=1)
    replace_file(Path(folder) / FACTS_FILE, lambda file: file.write(text.encode()))


def read_facts(folder: Path) -> Facts:
    """The facts that `write_facts` wrote; if there are none, those in config.yaml.

    Raises:
        UserError: the file is damaged.
    """
    path, config = folder / FACTS_FILE, folder / CONFIG_FILE
    if not path.is_file():
        return Facts({}, config.read_text() if config.is_file() else "")
    try:
        return Facts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Delete it.") from error


def revision() -> str:
    """The revision of this code: a commit, with a note if files were changed; or that it is an installed package."""
    root = Path(adet_iuq.__file__).resolve().parents[1]
    if (root / REVISION_FILE).is_file():  # this is the copy that a study trains with
        return (root / REVISION_FILE).read_text().strip()[:12]
    if not is_checkout(root):
        return "installed package"
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}, with changes" if changed else commit


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True).stdout.strip()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
