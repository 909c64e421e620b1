"""Evaluators, and what is done with their results."""

from adet_iuq.evaluation.build import EVALUATOR_REGISTRY, build_evaluator
from adet_iuq.evaluation.results import print_results, report_results

__all__ = ["EVALUATOR_REGISTRY", "build_evaluator", "print_results", "report_results"]
