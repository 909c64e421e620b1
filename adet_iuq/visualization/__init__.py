"""Pictures of predictions and of ground truth."""

from adet_iuq.visualization.draw import Drawing, draw, side_by_side
from adet_iuq.visualization.instances import of_detections, of_predictions, of_record

__all__ = ["Drawing", "draw", "of_detections", "of_predictions", "of_record", "side_by_side"]
