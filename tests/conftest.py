"""What all tests share."""

import signal
from collections.abc import Iterator

import pytest
import torch

# Whoever starts the tests in the background lets them, and all processes that they start, inherit a Ctrl-C that is ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def plain_convolutions(request: pytest.FixtureRequest) -> Iterator[None]:
    """Golden comparisons run on torch's own convolutions, not on oneDNN's, which differ from CPU to CPU.

    Where the input of a ReLU is nearly zero, another order of summation flips it, and a gradient jumps: on a CPU without
    AVX-512 oneDNN turns over one of 122,880 inputs of CondInst's training golden, and with it two gradient norms move by
    2e-4. In float64, and with the plain convolutions, all of them agree with the golden numbers to 1e-5. The gradients of
    the grid segmenters need float64 (helpers/grid_golden.py).
    """
    if request.node.get_closest_marker("golden") is None:
        yield
        return
    with torch.backends.mkldnn.flags(enabled=False):
        yield
