"""A COCO-format test set whose mosaics are evaluated too."""

import json
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from adet_iuq.data import register_datasets


def register_with_mosaics(cfg: CfgNode, kind: str, folder: Path, image_root: Path, content: dict[str, Any]) -> None:
    """Writes `content` to `folder`/`kind`.json and makes it the only test set, under a name that no other test has."""
    path, name = folder / f"{kind}.json", f"{kind}_{folder.name}"
    path.write_text(json.dumps(content))
    cfg.DATASETS.REGISTER = [[name, str(path), str(image_root)]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
    cfg.TEST.MOSAIC.ENABLED = True
    register_datasets(cfg)
