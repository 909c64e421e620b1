"""Keys of the Swin transformer, under Mask2Former's names and with its defaults (docs/parity/mask2former.md, "Swin")."""

from detectron2.config import CfgNode


def add_swin_config(cfg: CfgNode) -> None:
    """Adds `MODEL.SWIN.*`, which `D2SwinTransformer` and the builders on top of it read."""
    cfg.MODEL.SWIN = CfgNode()
    swin = cfg.MODEL.SWIN
    swin.PRETRAIN_IMG_SIZE = 224  # image size of the pretrained classifier; only APE depends on it
    swin.PATCH_SIZE = 4
    swin.EMBED_DIM = 96  # channels of "res2"; they double from level to level
    swin.DEPTHS = [2, 2, 6, 2]  # blocks of each level
    swin.NUM_HEADS = [3, 6, 12, 24]
    swin.WINDOW_SIZE = 7  # cells
    swin.MLP_RATIO = 4.0
    swin.QKV_BIAS = True
    swin.QK_SCALE = None  # factor of the attention logits; None: 1 / sqrt(channels of a head)
    swin.DROP_RATE = 0.0
    swin.ATTN_DROP_RATE = 0.0
    swin.DROP_PATH_RATE = 0.3  # rate in the last block; it grows linearly from 0
    swin.APE = False  # absolute position embedding
    swin.PATCH_NORM = True
    swin.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    swin.USE_CHECKPOINT = False  # True: recomputes activations in the backward pass, which saves memory
    # A key of this project. 0: nothing is frozen, 1: the patch embedding, 2: also "res2" ... 5: all of it.
    swin.FREEZE_AT = 0
