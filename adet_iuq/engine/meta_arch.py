"""What the trainer asks a meta-architecture before it builds it."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from adet_iuq.errors import UserError


def find_meta_arch(cfg: CfgNode) -> type:
    """The class that MODEL.META_ARCHITECTURE names.

    Raises:
        UserError: there is none.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        known = ", ".join(sorted(key for key, _ in META_ARCH_REGISTRY))
        raise UserError(f'MODEL.META_ARCHITECTURE "{name}" does not exist. There are {known}.')
    meta_arch: type = META_ARCH_REGISTRY.get(name)
    return meta_arch


def images_per_batch(cfg: CfgNode) -> int:
    """Images that one iteration reads over all ranks: IMS_PER_BATCH, unless the meta-architecture counts otherwise.

    Raises:
        UserError: of the meta-architecture, if the number does not suit it.
    """
    count = getattr(find_meta_arch(cfg), "images_per_batch", None)
    return int(count(cfg)) if count is not None else int(cfg.SOLVER.IMS_PER_BATCH)
