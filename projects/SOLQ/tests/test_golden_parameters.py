"""SOLQ's parameters have the published names and shapes, and as many of them are trained: golden/solq/params_*.json."""

import json

import pytest

from helpers.golden import golden_dir
from projects.SOLQ.tests.conftest import published_model

pytestmark = pytest.mark.golden

PARAMETERS = {"r50": "R50", "r101": "R101", "swin_s": "SwinS", "swin_b": "SwinB", "swin_l": "SwinL"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_have_the_published_names_and_shapes(name: str) -> None:
    published = json.loads((golden_dir("solq") / f"params_{name}.json").read_text())
    model = published_model(PARAMETERS[name])
    state, parameters = model.state_dict(keep_vars=True), dict(model.named_parameters(remove_duplicate=False))
    buffers = {key for key, entry in published["state_dict"].items() if entry.get("buffer", False)}
    assert {key: list(one.shape) for key, one in state.items()} == {
        key: entry["shape"] for key, entry in published["state_dict"].items()
    }
    assert set(state) - set(parameters) == buffers
    own = list(model.parameters())
    assert sum(one.numel() for one in own) == published["learned_parameters"]
    assert sum(one.numel() for one in own if one.requires_grad) == published["trained_parameters"]
    for names in published["shared_tensors"]:
        assert all(state[key] is state[names[0]] for key in names), names
