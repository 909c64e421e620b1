"""TEST.DETECTIONS_PER_IMAGE is, for every segmenter, the one key that says how many results an image has."""

import logging
from collections.abc import Set

from detectron2.config import CfgNode

from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

DETECTIONS = "TEST.DETECTIONS_PER_IMAGE"
COCO_DETECTIONS = 100  # COCO's AP counts this number of detections of an image and class, best first

# Published segmenters have keys of their own for the number of results and of the candidates for them.
# Mask2Former reads TEST.DETECTIONS_PER_IMAGE itself.
_OWN_CAPS = {
    "MODEL.FCOS.POST_NMS_TOPK_TEST": "MODEL.FCOS.PRE_NMS_TOPK_TEST",
    "MODEL.SOLOV2.MAX_PER_IMG": "MODEL.SOLOV2.NMS_PRE",
    "MODEL.SOTR.MAX_PER_IMG": "MODEL.SOTR.NMS_PRE",
}


def counted_detections(cfg: CfgNode) -> int:
    """The number of detections of an image and class that the evaluation counts: COCO's 100, or more if the config does."""
    return max(COCO_DETECTIONS, int(cfg.TEST.DETECTIONS_PER_IMAGE))


def spread_detections(cfg: CfgNode, in_files: Set[str], overridden: Set[str]) -> None:
    """Gives every segmenter's own key the value of TEST.DETECTIONS_PER_IMAGE, if the user has set that.

    The command line counts more than the files. If both keys are set in the same place, both stay, and a warning says
    that the segmenter's own is lower. The number of candidates grows with the results, as on mosaics, unless it is set.

    Args:
        cfg: an unfrozen config, which is changed in place.
        in_files: the dotted names of the keys that YAML files have set.
        overridden: the dotted names of the keys that the command line has set.

    Raises:
        UserError: TEST.DETECTIONS_PER_IMAGE is below 1.
    """

    def weight(key: str) -> int:
        return 2 if key in overridden else int(key in in_files)

    wanted = int(cfg.TEST.DETECTIONS_PER_IMAGE)
    if wanted < 1:
        raise UserError(
            f"{DETECTIONS} is {wanted}: that is how many results of an image there are; set it to 1 or more."
        )
    for own, candidates in _OWN_CAPS.items():
        section, cap, pool = _section(cfg, own), _leaf(own), _leaf(candidates)
        before = section[cap]
        if weight(DETECTIONS) > weight(own):
            section[cap] = wanted
            if wanted > before > 0 and weight(DETECTIONS) > weight(candidates):
                section[pool] = -(-section[pool] * wanted // before)
        elif weight(DETECTIONS) == weight(own) > 0 and before < wanted:
            logger.warning(
                "%s is %d, but %s is %d: it gives no more than %d results per image. Remove %s, or set it to %d.",
                *(DETECTIONS, wanted, own, before, before, own, wanted),
            )


def _section(cfg: CfgNode, key: str) -> CfgNode:
    for name in key.split(".")[:-1]:
        cfg = cfg[name]
    return cfg


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]
