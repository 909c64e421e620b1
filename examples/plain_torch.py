#!/usr/bin/env python
"""Instance-unique querying in a bare torch loop: no detectron2, no config, no trainer. Runs in seconds on a CPU.

    python examples/plain_torch.py

The data are drawn here: every scene shows a few coloured rectangles on noise, in the same few colours. So a query that
only knows its rectangle's colour also retrieves the rectangles of other scenes. `loss_inter` forbids that.

Three steps bring the method to any segmenter that decodes masks from queries and a dense map of pixels:
  1. the segmenter has `retrieve`, `retrieve_map` and `mask_loss`, see `Toy`;
  2. a training step shows it every image and a cropped and flipped view of it, see `paired_views`;
  3. the results of one forward pass over both go to `IUQCriterion` as a `Scene`, see `train`.
Shapes: B images, K instances of an image, Q queries, P pixels, D numbers in each of them, map of (Hf, Wf) cells.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.iuq import (
    CropFlip,
    EquivarianceLoss,
    InstanceSampler,
    InterSceneLoss,
    IUQCriterion,
    PixelMemory,
    Pixels,
    Queries,
    Scene,
    masks_at_cells,
)

SIZE, COLOURS, INSTANCES = 64, 4, 3  # side of a scene in pixels, number of colours, number of rectangles in a scene
STRIDE, OFFSET = (
    4,
    1.5,
)  # cell i covers pixels 4 i to 4 i + 3, and their middle, 4 i + 1.5, is the pixel that supervises it


class Toy(nn.Module):
    """A segmenter. The query of an instance is read at the cell under its centroid; a mask is query times map."""

    bytes_per_pair = 0  # <q, i> is a matrix product, which needs no memory beside its result

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(5, 32, 4, stride=4), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(),
        )  # fmt: skip
        self.pixels, self.queries = nn.Conv2d(32, dim, 1), nn.Conv2d(32, dim, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of pixels and of possible queries, (B, D, Hf, Wf) each, from images (B, 3, H, W)."""
        position = torch.linspace(-1, 1, images.shape[2])  # so that equal colours at different places can be told apart
        grid = torch.stack(torch.meshgrid(position, position, indexing="xy")).expand(len(images), -1, -1, -1)
        shared = self.backbone(torch.cat([images, grid], dim=1))
        return self.pixels(shared), self.queries(shared)

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """The logits <q, i> of all pairs, (Q, P); the pixels come from any image."""
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """The logits <q, I> of each query on the map of its own image, (Q, Hf, Wf)."""
        return torch.einsum("qd,qdhw->qhw", queries.embeddings, maps[queries.image_index])

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """L_mask, here the mean dice loss over the cells that are `valid` (B, Hf, Wf); zero without any query."""
        image, instance = scene.queries.image_index, scene.queries.target_index
        size = (logits.shape[1], logits.shape[2])
        cells = [masks_at_cells(masks, STRIDE, OFFSET, size) for masks in scene.masks]
        wanted = nn.utils.rnn.pad_sequence(cells, batch_first=True)[image, instance] & valid[image]
        shown = logits.sigmoid() * valid[image]
        overlap = 2 * (shown * wanted).sum((1, 2)) / (shown.square().sum((1, 2)) + wanted.sum((1, 2)) + 1e-5)
        return (1 - overlap).sum() / max(len(logits), 1)


def draw_scene(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An image (3, SIZE, SIZE) and the masks (K, SIZE, SIZE) bool of its rectangles; the later ones lie in front."""
    palette = torch.rand(COLOURS, 3, generator=torch.Generator().manual_seed(0))
    image = 0.2 * torch.rand(3, SIZE, SIZE, generator=generator)
    masks = torch.zeros(INSTANCES, SIZE, SIZE, dtype=torch.bool)
    for mask in masks:
        x, y, width, height, colour = torch.rand(5, generator=generator).tolist()
        left, top = int(x * SIZE * 0.7), int(y * SIZE * 0.7)
        mask[top : top + 12 + int(16 * height), left : left + 12 + int(16 * width)] = True
        image[:, mask] = palette[int(colour * COLOURS), :, None]
    for index in range(INSTANCES):
        masks[index] &= ~masks[index + 1 :].any(0)
    return image, masks


def paired_views(
    images: list[Tensor], masks: list[Tensor], generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor], list[CropFlip]]:
    """The images followed by g(I) of each; the masks likewise; and the transforms g."""
    drawn = [CropFlip.sample(generator, (SIZE, SIZE), stride=STRIDE, offset=OFFSET) for _ in images]
    view_images = [g.image(image) for g, image in zip(drawn, images, strict=True)]
    view_masks = [g.masks(mask) for g, mask in zip(drawn, masks, strict=True)]
    return images + view_images, masks + view_masks, drawn


def look(model: Toy, images: list[Tensor], masks: list[Tensor], image_ids: list[int]) -> Scene:
    """One forward pass over images of several sizes, and everything that the method needs to know about it."""
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    frame = torch.stack([F.pad(image, (0, SIZE - w, 0, SIZE - h)) for image, (h, w) in zip(images, sizes, strict=True)])
    pixels, possible = model(frame)
    found = []
    for b, instances in enumerate(masks):
        for k in instances.flatten(1).any(1).nonzero().flatten().tolist():  # the crop has cut the others away
            row, column = (instances[k].nonzero().float().mean(0) / STRIDE).long().tolist()
            found.append((b, k, row, column))
    image, instance, row, column = torch.tensor(found).view(-1, 4).long().unbind(1)
    return Scene(
        queries=Queries(possible[image, :, row, column], image, instance),
        features=pixels,
        stride=STRIDE,
        offset=OFFSET,
        masks=masks,
        image_ids=torch.tensor(image_ids),
        image_sizes=sizes,
    )


def train(steps: int = 250, batch: int = 4) -> None:
    """Trains, and prints the losses and how often queries fire on pixels of other scenes and of their own."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    scenes = [draw_scene(generator) for _ in range(40)]
    model = Toy()
    criterion = IUQCriterion(
        memory=PixelMemory(pixel_dim=16, capacity=2000),
        sampler=InstanceSampler(pixels_per_instance=20),
        # First it learns what a mask is. For queries that are dot products foreign pixels weigh more than by default.
        inter=InterSceneLoss(neg_weight=0.9, start_iter=50, ramp_iters=50),
        equi=EquivarianceLoss(weight=1.0),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        chosen = torch.randperm(len(scenes), generator=generator)[:batch].tolist()
        images, masks = [scenes[i][0] for i in chosen], [scenes[i][1] for i in chosen]
        images, masks, transforms = paired_views(images, masks, generator)
        scene = look(model, images, masks, chosen * 2)  # a view has its image's id, so it is never foreign to it
        everywhere = torch.ones_like(scene.features[:, 0], dtype=torch.bool)
        losses = {"loss_mask": model.mask_loss(model.retrieve_map(scene.queries, scene.features), scene, everywhere)}
        terms, stats = criterion(model, scene, transforms, num_originals=batch, iteration=step)
        losses |= terms
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            shown = losses | {name: stats[name] for name in ("fire_rate", "own_fire_rate")}
            print(f"step {step:3}", *(f"{name} {value.item():.4f}" for name, value in shown.items()), sep="  ")


if __name__ == "__main__":
    train()
