"""All that an evaluation measures: the data sets, their mosaics, and the queries on held-out images."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from adet_iuq.data.registration.mosaic import TILES, mosaic_config
from adet_iuq.evaluation.queries import probe_queries
from adet_iuq.evaluation.results import by_dataset
from adet_iuq.evaluation.run_lengths import RunLengthEvaluator
from adet_iuq.modeling import Segmenter


def evaluate_all(
    evaluate: Callable[..., dict[str, Any]],
    cfg: CfgNode,
    model: Segmenter,
    evaluators: list[DatasetEvaluator],
    build_evaluator: Callable[[CfgNode, str], DatasetEvaluator],
) -> dict[str, Any]:
    """The results on DATASETS.TEST, and of what TEST.MOSAIC and TEST.QUERY_PROBE ask for; every rank calls it.

    Args:
        evaluate: `DefaultTrainer.test`, a function of config, model and evaluators.
        cfg: the config of the run.
        model: the model to evaluate.
        evaluators: the evaluators of DATASETS.TEST, in its order.
        build_evaluator: makes the evaluator of a set of mosaics, from a config and its name.

    Returns:
        {data set: {task: {metric: value}}} with the names of `evaluated_sets`; for a single set only its inner part.
    """
    results = _evaluated(evaluate, cfg, model, evaluators)
    mosaics = mosaic_config(cfg)
    if mosaics.DATASETS.TEST:
        with model.pictures_of(TILES):
            own = [build_evaluator(mosaics, name) for name in mosaics.DATASETS.TEST]
            results |= _evaluated(evaluate, mosaics, model, own)
    for name, measured in probe_queries(cfg, model).items():
        results[name] = {**results[name], "queries": measured}
    return dict(next(iter(results.values()))) if len(results) == 1 else dict(results)


def _evaluated(
    evaluate: Callable[..., dict[str, Any]], cfg: CfgNode, model: Segmenter, evaluators: list[DatasetEvaluator]
) -> dict[str, Any]:
    """The results on the sets of a config. Masks are run lengths if all evaluators accept these."""
    with model.encoding_masks(all(isinstance(one, RunLengthEvaluator) for one in evaluators)):
        return dict(by_dataset(evaluate(cfg, model, evaluators), cfg.DATASETS.TEST))
