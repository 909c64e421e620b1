"""Tells the user in words how the folders of DATASETS.REGISTER were understood."""

from detectron2.config import CfgNode

from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.registration.datasets import source_of, used_names
from adet_iuq.data.registration.entries import used_folders


def describe_folders(cfg: CfgNode) -> list[str]:
    """A text for each folder that the config uses. The data sets must be registered.

    Raises:
        UserError: a JSON file cannot be read.
    """
    used = used_names(cfg)
    texts = []
    for layout, name in used_folders(cfg, used):
        lines = [_line(one) if one in used else f"{one}: not used" for one in layout.names(name)]
        texts.append("\n    ".join([f"{layout.path} is taken for {layout.kind}:", *lines]))
    return texts


def _line(name: str) -> str:
    source = source_of(name)
    assert source is not None  # it is registered with a JSON file
    json_file, image_root, _ = source
    report = digest_of(json_file, image_root).digest.report
    return f"{name}: {json_file}, images in {image_root} ({report.images:,} images, {report.annotations:,} annotations)"
