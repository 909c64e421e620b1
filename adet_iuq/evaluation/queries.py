"""Measures the aims of instance-unique querying on held-out images with ground truth.

For every probe image and its view g(I) it asks: does a query fire on pixels of other images (Eq. 5)? How similar is it
to the query of a look-alike? Do the queries of g(I) find the same masks on g(I) and on the warped map of I (Eq. 8)? Do
the two maps agree (Eq. 6)? The numbers depend only on the weights and the images, not on the terms that the model was
trained with, so that runs can be compared. One key is different: MODEL.IUQ.INTER.REL_COORDS "instance" moves foreign
pixels into the query's surroundings here too, so its firing rates compare with those of the same reading only.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn.functional import normalize

from adet_iuq.data import TrainingMapper, derive_seed, load_dataset, seeded
from adet_iuq.data.images.augmentation import build_test_augmentations
from adet_iuq.errors import UserError
from adet_iuq.iuq import (
    CropFlip,
    EquivarianceLoss,
    InstanceSampler,
    InterSceneLoss,
    Pixels,
    Queries,
    Scene,
    valid_cells,
    warp_features,
)
from adet_iuq.modeling import IUQMetaArch, Segmenter, Views, transform_inputs
from adet_iuq.modeling.views import on_device

logger = logging.getLogger(__name__)


def check_probe(cfg: CfgNode, model: Segmenter) -> IUQMetaArch | None:
    """Returns `model` if TEST.QUERY_PROBE asks for its measurements, otherwise None.

    Raises:
        UserError: the model is a base segmenter, which does not show its queries; or fewer than 2 images are asked for.
    """
    probe = cfg.TEST.QUERY_PROBE
    if not probe.ENABLED:
        return None
    if not isinstance(model, IUQMetaArch):
        raise UserError(
            f"TEST.QUERY_PROBE needs a model with instance-unique querying, and {type(model).__name__} is none. Name its "
            "IUQ twin in MODEL.META_ARCHITECTURE (with MODEL.IUQ.INTER.ENABLED and MODEL.IUQ.EQUI.ENABLED False it trains "
            "as the base does), or switch TEST.QUERY_PROBE.ENABLED off."
        )
    if probe.IMAGES < 2:
        raise UserError(
            f"TEST.QUERY_PROBE.IMAGES is {probe.IMAGES}; give at least 2, as queries are tested on other images."
        )
    return model


def probe_queries(cfg: CfgNode, model: Segmenter) -> dict[str, dict[str, float]]:
    """The results of `measure_queries` for every COCO-type set in DATASETS.TEST, by name; empty without TEST.QUERY_PROBE.

    Every rank processes all probe images, which are few: a forward pass in training may be a collective call, and rank
    0's numbers are then those of one process.

    Raises:
        UserError: `check_probe` fails, or a data set or an image cannot be read.
    """
    asked = check_probe(cfg, model)
    results: dict[str, dict[str, float]] = {}
    for name in cfg.DATASETS.TEST if asked is not None else ():
        if asked is None or MetadataCatalog.get(name).get("evaluator_type") != "coco":
            continue
        with undisturbed(asked):
            results[name] = measure_queries(asked, probe_samples(cfg, name))
        logger.info(
            "Queries on '%s': %s", name, ", ".join(f"{key} {value:.4g}" for key, value in results[name].items())
        )
    return results


def probe_samples(cfg: CfgNode, name: str) -> Iterator[dict[str, Any]]:
    """Training samples of a test set's images at the test size, without augmentation: of at most TEST.QUERY_PROBE.IMAGES
    images with an instance, which are shuffled by the seed.

    Raises:
        UserError: the data set or an image cannot be read, or no image has an instance.
    """
    probe = cfg.TEST.QUERY_PROBE
    records = [record for record in load_dataset(name) if _has_instance(record)]
    if not records:
        raise UserError(f"TEST.QUERY_PROBE: no image of '{name}' has an annotation to measure queries by.")
    generator = torch.Generator().manual_seed(derive_seed(probe.SEED))
    chosen = torch.randperm(len(records), generator=generator)[: probe.IMAGES].tolist()
    mapper = TrainingMapper(
        augmentations=build_test_augmentations(cfg),
        image_format=cfg.INPUT.FORMAT,
        recompute_boxes=False,
        deep_images=cfg.INPUT.DEEP_IMAGES,
    )
    for number, index in enumerate(chosen):
        keys = {"image_id": number, "sample_index": number, "sample_seed": derive_seed(probe.SEED, number)}
        yield mapper({**records[index], **keys})


@contextmanager
def undisturbed(model: IUQMetaArch) -> Iterator[None]:
    """Lets the model be run as in training, but without gradient; afterwards it is as it was before.

    All modules are in evaluation mode: normalisation layers neither update their statistics nor use those of the batch,
    and there is no dropout. Modes and buffers (CondInst counts its passes in one) are restored. The memory stays as it
    is, because nothing writes to it.
    """
    modes = [(module, module.training) for module in model.modules()]
    memory = {id(buffer) for buffer in model.iuq_criterion.buffers()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in memory]
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad(), EventStorage(0):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, content in buffers:
                buffer.copy_(content)


def measure_queries(model: IUQMetaArch, samples: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Measurements on images with ground truth. They leave the random states unchanged.

    Args:
        model: the model, within `undisturbed`.
        samples: samples with `image_id`, all different, and `sample_seed`, which decides pixels and view.

    Returns:
        fire_rate: the share of pairs of a matched query and a pixel of another image with a logit above 0, in percent.
        fire_probability: the mean probability of these pairs, in percent.
        own_fire_rate: the same share on pixels of the query's own image, of its own instance and of others.
        similarity: the cosine similarity of a query and its nearest look-alike, the most similar query of the same class
            in another image, mean over queries that have one, in percent. Before, the mean of all queries is taken off:
            what they have in common would hide their differences.
        own_similarity: the same with the nearest look-alike in the query's own image, without queries of its own instance.
        equi_error: Eq. 8, the segmenter's mask loss of q^g on g(f(I)), mean over images.
        equi_feature_error: Eq. 6, the mean squared difference of f(g(I)) and g(f(I)), divided by the variance of f(I).
        equi_iou: the IoU of the masks of q^g on g(I) and on g(f(I)),
            over cells that both have, mean over queries, in percent.
        images: the number of images.
        A value for which there is nothing to measure is not a number.
    """
    asked: list[tuple[Queries, Tensor]] = []
    pixels: list[Pixels] = []
    classes: list[Tensor] = []
    pairs: list[dict[str, Tensor]] = []
    sampler, views = InstanceSampler(), Views()
    for sample in samples:
        with seeded(sample["sample_seed"]):
            inputs = on_device(sample, model.device)
            transform = views.draw(inputs, model.pixel_stride, model.pixel_offset)
            scene, _ = model.forward_scene([inputs, transform_inputs(inputs, transform)])
            original = scene.views(slice(0, 1))
            pixels.append(sampler(original))
            asked.append((original.queries, original.image_ids))
            classes.append(inputs["instances"].gt_classes[original.queries.target_index])
            pairs.append(_equivariance(model, scene, transform))
    return {
        **_uniqueness(model, asked, Pixels.cat(pixels)),
        **_similarities([queries for queries, _ in asked], classes),
        "equi_error": _mean([pair["error"] for pair in pairs]),
        "equi_feature_error": _ratio(
            sum(float(pair["squared"]) for pair in pairs), sum(float(pair["variance"]) for pair in pairs)
        ),
        "equi_iou": 100 * _mean([pair["ious"] for pair in pairs]),
        "images": float(len(pairs)),
    }


def _uniqueness(model: IUQMetaArch, asked: list[tuple[Queries, Tensor]], pixels: Pixels) -> dict[str, float]:
    """The pairs of Eq. 5: the queries of each image, with its id (1,), on the pixels of all images."""
    loss = InterSceneLoss(loss="l1")  # its sum over foreign pairs is the sum of their probabilities
    total = torch.zeros(5, dtype=torch.float64)
    for queries, image_id in asked:
        ones = torch.ones(len(queries), device=image_id.device)
        ids = image_id.expand(len(queries))
        found = loss(queries, ids, pixels, model.retrieve, query_weights=ones, bytes_per_pair=model.bytes_per_pair)
        total += torch.stack([value.double().cpu() for value in found])
    probability, num_pairs, num_fired, num_own_pairs, num_own_fired = total.tolist()
    return {
        "fire_rate": 100 * _ratio(num_fired, num_pairs),
        "fire_probability": 100 * _ratio(probability, num_pairs),
        "own_fire_rate": 100 * _ratio(num_own_fired, num_own_pairs),
    }


def _similarities(asked: Sequence[Queries], classes: Sequence[Tensor]) -> dict[str, float]:
    """Of each query and its nearest look-alike, in other images and in its own.

    Args:
        asked: the queries of each image.
        classes: the classes of their instances, (q,) long for each image.
    """
    embeddings = torch.cat([queries.embeddings for queries in asked]).float()
    directions = normalize(embeddings - embeddings.mean(dim=0), dim=1)
    labels, instances = torch.cat(list(classes)), torch.cat([queries.target_index for queries in asked])
    images = torch.cat([torch.full_like(queries.target_index, image) for image, queries in enumerate(asked)])
    found: dict[str, list[Tensor]] = {"similarity": [], "own_similarity": []}
    for image in range(len(asked)):  # one image against all: the whole matrix may be large
        mine = images == image
        cosines = directions[mine] @ directions.T
        alike = labels[mine, None] == labels
        kin = mine & (instances[mine, None] != instances)
        for name, others in (("similarity", alike & ~mine), ("own_similarity", alike & kin)):
            has = others.any(dim=1)
            found[name].append(cosines.masked_fill(~others, -math.inf)[has].amax(dim=1))
    return {name: 100 * _mean(values) for name, values in found.items()}


def _equivariance(model: IUQMetaArch, scene: Scene, transform: CropFlip) -> dict[str, Tensor]:
    """`error` (1,) and `ious` (q,), both (0,) without a query in the view; `squared` and `variance` of the features.

    Args:
        model: the model that made the scene.
        scene: the scene of an image and its view.
        transform: the g of the view.
    """
    stride, offset, size = scene.stride, scene.offset, scene.image_sizes[0]
    warped, valid = warp_features(scene.features[:1], [transform], [size], stride=stride, offset=offset)
    view = scene.views(slice(1, 2))
    queries = view.queries.to(dtype=warped.dtype)
    # The mask loss is called without any query too, because it may be a collective call.
    error, _ = EquivarianceLoss(target="query")(model, scene, [transform])
    squared, _ = EquivarianceLoss(target="feature")(model, scene, [transform])
    rows, columns = (valid_cells(size[i], scene.features.shape[2 + i], stride, offset) for i in (0, 1))
    inside = scene.features[0, :, :rows, :columns].to(warped.dtype).flatten(1)
    on_view, on_warped = (
        (model.retrieve_map(queries, maps) > 0) & valid for maps in (view.features.to(warped.dtype), warped)
    )
    union = (on_view | on_warped).flatten(1).sum(dim=1)
    ious = (on_view & on_warped).flatten(1).sum(dim=1) / union
    return {
        "error": error.reshape(1)[: len(queries)],
        "ious": ious[union > 0],
        "squared": squared,
        "variance": inside.var(dim=1, correction=0).mean(),
    }


def _has_instance(record: dict[str, Any]) -> bool:
    return any(not annotation.get("iscrowd", 0) for annotation in record.get("annotations", []))


def _mean(parts: list[Tensor]) -> float:
    values = torch.cat(parts).double()
    return float(values.mean()) if len(values) else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
