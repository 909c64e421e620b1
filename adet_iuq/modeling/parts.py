"""Named parts of a segmenter's forward pass, which profilers show as ranges and which a listener can follow.

Segmenters mark what they do, as a block or as a whole function, with these names:

    backbone     the feature pyramid
    heads        all learned layers behind it, and the decoding of masks for the losses and for the results
    targets      what the annotations ask of every location or query
    losses       the base losses
    iuq          views, memory and losses of instance-unique querying
    nms          from scores to the detections that stay; grid segmenters decode the masks of all candidates here
    postprocess  masks and boxes at the output size
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch.profiler import record_function

PARTS = ("backbone", "heads", "targets", "losses", "iuq", "nms", "postprocess")


class PartListener(Protocol):
    """Learns when a part begins and when it ends; a clock, for example."""

    def enter(self, name: str) -> None:
        """A part begins."""

    def leave(self) -> None:
        """The latest part ends."""


_listener: PartListener | None = None  # the one that is told at present


@contextmanager
def part(name: str) -> Iterator[None]:
    """Marks a part, as a context or as a decorator. The time of a part inside another one counts for the inner one only."""
    with record_function(name):
        listener = _listener
        if listener is None:
            yield
            return
        listener.enter(name)
        try:
            yield
        finally:
            listener.leave()


@contextmanager
def heard_by(listener: PartListener) -> Iterator[None]:
    """While the context lasts, `listener` is told of all parts. There is one listener at a time."""
    global _listener
    assert _listener is None, "another listener is active"
    _listener = listener
    try:
        yield
    finally:
        _listener = None
