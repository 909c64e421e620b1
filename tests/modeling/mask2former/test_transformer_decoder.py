"""The transformer decoder's attention: torch's own with the same weights, and the cells that a query attends to."""

import torch
from torch import nn

from adet_iuq.modeling.mask2former.transformer_decoder import Attention, attended_cells


def test_attention_is_torch_s_own() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    attend = torch.rand(2, 5, 7) > 0.4
    attend[..., 0] = True
    expected, _ = theirs(query, key, value, attn_mask=~attend.repeat_interleave(4, 0), need_weights=False)
    torch.testing.assert_close(ours(query, key, value, attend), expected, rtol=1e-5, atol=1e-6)


def test_queries_attend_inside_their_mask_or_everywhere() -> None:
    embeddings = torch.tensor([[[1.0], [-1.0], [-2.0]]])
    features = torch.tensor([[[0.5, 0.0, -3.0]]])
    assert attended_cells(embeddings, features).tolist() == [
        [[True, True, False], [False, True, True], [False, True, True]]
    ]
    assert attended_cells(embeddings, torch.ones(1, 1, 3))[0, 1].all()
