"""Keys that do not exist: what is proposed, and what never is."""

import pytest

from adet_iuq.config import load_config
from adet_iuq.errors import UserError


def message(key: str) -> str:
    with pytest.raises(UserError) as raised:
        load_config(None, [key, "1"])
    return str(raised.value)


@pytest.mark.parametrize(
    "key", ["MODEL.PAFPN.NORM", "MODEL.PAFPN.OUT_CHANNELS", "PAFPN.NORM", "MODEL.SOLO.NUM_GRIDS", "MODEL.RPN.NORM"]
)
def test_the_key_of_another_network_is_never_proposed(key: str) -> None:
    assert "Did you mean" not in message(key)


@pytest.mark.parametrize(
    "key,meant",
    [
        ("MODEL.FCSO.NORM", "MODEL.FCOS.NORM"),
        ("MODEL.FCOSS.NUM_CLASSES", "MODEL.FCOS.NUM_CLASSES"),
        ("MODEL.SOLOV3.NUM_CLASSES", "MODEL.SOLOV2.NUM_CLASSES"),
        ("MODEL.SLOV2.NUM_CLASSES", "MODEL.SOLOV2.NUM_CLASSES"),
        ("MODEL.fcos.NORM", "MODEL.FCOS.NORM"),
        ("FCOS.NUM_CLASSES", "MODEL.FCOS.NUM_CLASSES"),
        ("MODEL.DEVISE", "MODEL.DEVICE"),
        ("SOLVER.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN"),
        ("MODEL.NUM_CLASSES", "MODEL.FCOS.NUM_CLASSES"),
    ],
)
def test_what_was_meant_is_proposed(key: str, meant: str) -> None:
    assert meant in message(key).split("Did you mean ")[1]
