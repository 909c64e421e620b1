"""The segmenters. Importing this package registers all of them with detectron2."""

from adet_iuq.modeling import backbone, condinst, solov2, sotr

__all__ = ["backbone", "condinst", "solov2", "sotr"]
