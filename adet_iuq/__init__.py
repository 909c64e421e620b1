"""Instance-unique querying: a training framework for query-based instance segmenters, on detectron2.

`from adet_iuq import Predictor` is how Python code gets predictions (docs/predicting.md).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adet_iuq.inference import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports `Predictor` when it is asked for, so that importing the package loads neither torch nor detectron2."""
    if name == "Predictor":
        from adet_iuq.inference import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
