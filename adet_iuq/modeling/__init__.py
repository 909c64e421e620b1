"""The segmenters. Importing this package registers all of them with detectron2."""

from adet_iuq.modeling import backbone, condinst, mask2former, solov2, sotr
from adet_iuq.modeling.iuq_meta_arch import IUQMetaArch
from adet_iuq.modeling.iuq_settings import build_criterion, settings_from
from adet_iuq.modeling.parts import part
from adet_iuq.modeling.segmenter import Segmenter, TrainingPass, content_size, output_size
from adet_iuq.modeling.views import Views, transform_inputs

__all__ = [
    "IUQMetaArch",
    "Segmenter",
    "TrainingPass",
    "Views",
    "backbone",
    "build_criterion",
    "condinst",
    "content_size",
    "mask2former",
    "output_size",
    "part",
    "settings_from",
    "solov2",
    "sotr",
    "transform_inputs",
]
