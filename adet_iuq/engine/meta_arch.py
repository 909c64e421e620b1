"""Finds the meta-architecture of a run by its name, and checks that it is a `Segmenter` before anything is built."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adet_iuq.errors import UserError
from adet_iuq.modeling.segmenter import Segmenter


def find_segmenter(cfg: CfgNode) -> type[Segmenter]:
    """The class that MODEL.META_ARCHITECTURE names.

    Raises:
        UserError: there is no such class, or it is no `Segmenter`.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    found = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    if isinstance(found, type) and issubclass(found, Segmenter):
        return found
    known = ", ".join(
        sorted(key for key, one in META_ARCH_REGISTRY if isinstance(one, type) and issubclass(one, Segmenter))
    )
    if found is None:
        raise UserError(f'MODEL.META_ARCHITECTURE "{name}" does not exist. There are {known}.')
    raise UserError(
        f'MODEL.META_ARCHITECTURE "{name}" is no Segmenter, so this trainer cannot know its losses and state. '
        f"Inherit adet_iuq.modeling.Segmenter (projects/Minimal/README.md shows how), or choose one of {known}."
    )


def checked_segmenter(model: nn.Module) -> Segmenter:
    """Returns `model` itself.

    Raises:
        UserError: it is no `Segmenter`.
    """
    if not isinstance(model, Segmenter):
        raise UserError(
            f"{type(model).__name__} is no Segmenter: inherit adet_iuq.modeling.Segmenter, which declares all that the "
            "trainer asks of a model (projects/Minimal/README.md shows how)."
        )
    return model


def unwrap(model: nn.Module) -> Segmenter:
    """The segmenter itself, taken out of DistributedDataParallel."""
    return checked_segmenter(model.module if isinstance(model, DistributedDataParallel) else model)
