def build_timm_backbone(cfg, s):
    raise NotImplementedError


class TimmBackbone:
    pass
