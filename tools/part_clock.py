"""Seconds of the named parts of a segmenter's pass (adet_iuq/modeling/parts.py), forward and backward."""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from adet_iuq.modeling.parts import heard_by

OTHER = "other"  # everything that runs outside of all parts


@dataclass
class PartTimes:
    """The seconds that a part took."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """The seconds of both passes together."""
        return self.forward + self.backward


class PartClock:
    """Times the parts of everything that runs inside `with clock:` on this thread. Only one clock runs at a time.

    Attributes:
        times: {name of a part, or OTHER: seconds}; their sum is the time inside the block.

    Args:
        device: the device; a CUDA device is synchronised at every border between parts.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.times: dict[str, PartTimes] = defaultdict(PartTimes)
        self._synchronize = torch.device(device).type == "cuda"
        self._stack: list[str] = []
        self._in_backward = False
        self._since = 0.0
        # For each part the autograd sequence number from which on the nodes of the graph belong to it.
        self._first_nodes: list[int] = []
        self._owners: list[str] = []

    def __enter__(self) -> "PartClock":
        self._listening = heard_by(self)
        self._listening.__enter__()
        self._first_nodes.clear()
        self._owners.clear()
        self._since = self._now()
        self.enter(OTHER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._charge(self._stack[-1])
        self._stack.clear()
        self._listening.__exit__(None, None, None)

    def enter(self, name: str) -> None:
        """A part begins."""
        if self._stack:
            self._charge(self._stack[-1])
        self._stack.append(name)
        self._own(name)

    def leave(self) -> None:
        """The latest part ends."""
        self._charge(self._stack.pop())
        self._own(self._stack[-1])

    def backward(self, loss: Tensor) -> None:
        """Runs `loss.backward()`; every step counts for the part whose forward pass made it necessary."""
        self._charge(self._stack[-1])
        current = [OTHER]

        def begin(name: str, _gradients: Any) -> None:
            self._charge(current[0])
            current[0] = name

        for node in _graph(loss):
            if hasattr(node, "variable"):
                continue  # adding a gradient to a weight counts for the step that computed it
            owner = self._owners[bisect_right(self._first_nodes, node._sequence_nr()) - 1]
            node.register_prehook(partial(begin, owner))
        self._since = self._now()  # the search in the graph does not count
        self._in_backward = True
        loss.backward()  # type: ignore[no-untyped-call]
        self._charge(current[0])
        self._in_backward = False

    def _own(self, name: str) -> None:
        self._first_nodes.append(torch.autograd._get_sequence_nr())
        self._owners.append(name)

    def _charge(self, name: str) -> None:
        """Adds the time since the last border to `name`."""
        now = self._now()
        times, passed = self.times[name], now - self._since
        if self._in_backward:
            times.backward += passed
        else:
            times.forward += passed
        self._since = now

    def _now(self) -> float:
        if self._synchronize:
            torch.cuda.synchronize()
        return time.perf_counter()


def _graph(loss: Tensor) -> Iterator[Any]:
    """All nodes of a loss's autograd graph, each once."""
    waiting, seen = [loss.grad_fn], {loss.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
