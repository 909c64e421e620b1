"""Evaluators, and what is made of their results."""

from adet_iuq.evaluation.build import build_evaluator
from adet_iuq.evaluation.results import print_results, report_results

__all__ = ["build_evaluator", "print_results", "report_results"]
