"""The segmenters. Importing this package registers all of them with detectron2."""

from adet_iuq.modeling import backbone, condinst, mask2former, solov2, sotr

__all__ = ["backbone", "condinst", "mask2former", "solov2", "sotr"]
