"""Predictions for images and videos outside of any data set, from Python and for the commands that a user starts."""

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.inference.config import find_config, inference_config
from adet_iuq.inference.instances import InstancePredictor
from adet_iuq.inference.predictor import Predictor

__all__ = ["InstancePredictor", "Predictor", "find_config", "inference_config"]
