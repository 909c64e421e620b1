"""Keys of Mask2Former, under its published names and with its defaults (docs/parity/mask2former.md)."""

from detectron2.config import CfgNode


def add_mask2former_config(cfg: CfgNode) -> None:
    """Adds `MODEL.MASK_FORMER.*`, keys of `MODEL.SEM_SEG_HEAD`, and `MODEL.IUQ.MASK_FORMER.*` to the other IUQ keys."""
    _add_mask_former(cfg.MODEL)
    _add_sem_seg_head(cfg.MODEL.SEM_SEG_HEAD)
    _add_iuq(cfg.MODEL.IUQ)


def _add_mask_former(model: CfgNode) -> None:
    model.MASK_FORMER = CfgNode()
    former = model.MASK_FORMER
    former.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"  # the only one here
    former.TRANSFORMER_IN_FEATURE = "res5"  # "multi_scale_pixel_decoder" in every recipe, and the only one here
    former.HIDDEN_DIM = 256  # channels of a query in the decoder
    former.NHEADS = 8  # heads of both decoders
    former.DIM_FEEDFORWARD = 2048  # width in the transformer decoder; in the pixel decoder it is 1024
    former.DROPOUT = 0.1  # rate in the pixel decoder; the transformer decoder has no dropout
    former.DEC_LAYERS = 6  # number of predictions, one more than layers: 10 in every recipe
    former.ENC_LAYERS = 0  # not read
    former.PRE_NORM = False  # only False is supported
    former.ENFORCE_INPUT_PROJ = False  # a 1x1 convolution between the decoders even if channels agree
    former.NUM_OBJECT_QUERIES = 100

    former.DEEP_SUPERVISION = True  # every prediction has losses, not only the last one
    former.NO_OBJECT_WEIGHT = 0.1  # weight of unmatched queries in the class loss
    former.CLASS_WEIGHT = 1.0  # weights of losses and of matching costs
    former.MASK_WEIGHT = 20.0
    former.DICE_WEIGHT = 1.0
    former.TRAIN_NUM_POINTS = 112 * 112  # random points of a mask in costs and losses
    former.OVERSAMPLE_RATIO = 3.0  # candidates per point, of which the most uncertain are kept ...
    former.IMPORTANCE_SAMPLE_RATIO = 0.75  # ... for this share of the points; the others are uniform

    former.SIZE_DIVISIBILITY = 32  # divisor of the padded input's sides; 0 or less: what the backbone needs
    former.TEST = CfgNode()
    former.TEST.SEMANTIC_ON = True
    former.TEST.INSTANCE_ON = False
    former.TEST.PANOPTIC_ON = False
    former.TEST.OBJECT_MASK_THRESHOLD = 0.0  # panoptic: lowest score of a segment
    former.TEST.OVERLAP_THRESHOLD = 0.0  # panoptic: smallest share of a mask that is not covered by others
    # Whether masks are resized before the rules apply; for instances and panoptic segments they always are.
    former.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_sem_seg_head(head: CfgNode) -> None:
    head.NUM_CLASSES = 80  # filled from the data set unless set
    head.MASK_DIM = 256  # channels of mask features and mask embeddings
    head.TRANSFORMER_ENC_LAYERS = 0  # layers of the pixel decoder: 6 in every recipe
    head.PIXEL_DECODER_NAME = "BasePixelDecoder"  # "MSDeformAttnPixelDecoder" in every recipe, and the only one here
    head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4  # a published key that is not read: the number is always 4
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8  # a published key that is not read: MASK_FORMER.NHEADS counts


def _add_iuq(iuq: CfgNode) -> None:
    """Adds the keys that `MaskFormerIUQ` reads besides the other keys of `MODEL.IUQ`."""
    iuq.MASK_FORMER = CfgNode()
    iuq.MASK_FORMER.QUERY_LAYERS = "last"  # matched queries of the "last" prediction or of "all"
    # Panoptic training: whether stuff segments count as instances, for the memory and for both losses.
    iuq.MASK_FORMER.STUFF_INSTANCES = False
    # loss_equi = EQUI.WEIGHT * (EQUI_MASK_WEIGHT * point loss + EQUI_DICE_WEIGHT * dice loss), on random points.
    iuq.MASK_FORMER.EQUI_MASK_LOSS = "bce"  # as the published mask loss; "focal": as the paper describes it
    iuq.MASK_FORMER.EQUI_MASK_WEIGHT = 5.0
    iuq.MASK_FORMER.EQUI_DICE_WEIGHT = 5.0
    iuq.MASK_FORMER.EQUI_FOCAL_ALPHA = (
        0.25  # weight of the mask's pixels; the others weigh 1 - alpha (arXiv 1708.02002)
    )
    iuq.MASK_FORMER.EQUI_FOCAL_GAMMA = 2.0
