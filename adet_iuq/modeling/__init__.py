"""The segmenters. Importing this package registers all of them with detectron2."""

from adet_iuq.modeling import backbone, condinst, mask2former, solov2, sotr
from adet_iuq.modeling.segmenter import Segmenter, TrainingPass

__all__ = ["Segmenter", "TrainingPass", "backbone", "condinst", "mask2former", "solov2", "sotr"]
