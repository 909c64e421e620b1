"""Finds all keys of a config that are called NUM_CLASSES."""

from detectron2.config import CfgNode


def num_classes_sections(cfg: CfgNode, prefix: str = "") -> dict[str, CfgNode]:
    """Every section of `cfg` that has a key NUM_CLASSES, by the dotted name of that key.

    The sections are those of `cfg` itself, so setting NUM_CLASSES in one of them changes `cfg`.
    """
    found: dict[str, CfgNode] = {}
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            found |= num_classes_sections(value, f"{prefix}{name}.")
        elif name == "NUM_CLASSES":
            found[prefix + name] = cfg
    return found


def all_num_classes(cfg: CfgNode) -> frozenset[int]:
    """The values of all those keys."""
    return frozenset(int(section.NUM_CLASSES) for section in num_classes_sections(cfg).values())
