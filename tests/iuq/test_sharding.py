"""The split memory's loss in one process, where a shard is the whole; several processes: tests/distributed."""

import torch
from torch import Tensor

from adet_iuq.iuq import InterSceneLoss, Pixels, Queries, sharded_inter_loss


def dot(queries: Queries, pixels: Pixels) -> Tensor:
    return queries.embeddings @ pixels.features.T


def test_gradients_of_half_precision_queries_survive_a_gradient_scaler() -> None:
    """Each is about 1e-9 before the scaler's factor, below half precision's least number of 6e-8."""
    generator = torch.Generator().manual_seed(0)
    pixels = Pixels(torch.randn(50, 4, generator=generator), torch.zeros(50, 2), torch.arange(50))
    embeddings = torch.randn(6, 4, generator=generator).half()
    loss, weights = InterSceneLoss(), torch.full((6,), 1e-10)
    gradients = []
    for match in (loss, lambda *args, **options: sharded_inter_loss(loss, *args, **options)):
        leaf = embeddings.clone().requires_grad_()
        queries = Queries(leaf, torch.zeros(6, dtype=torch.long), torch.zeros(6, dtype=torch.long))
        result = match(queries, torch.full((6,), 100), pixels, dot, query_weights=weights)
        (gradient,) = torch.autograd.grad(65536 * result.value, leaf)
        assert gradient.dtype == torch.float16
        gradients.append(gradient)
    assert (gradients[0] != 0).all() and torch.equal(gradients[0], gradients[1])
