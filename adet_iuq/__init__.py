"""Instance-unique querying: a training framework for query-based instance segmenters, on detectron2."""

__version__ = "0.1.0"
