"""Measure registrations on cases with a known truth: labels, landmarks, folds, time and memory.

>>> from rwcnet_runtime import Registrar
>>> from rwcnet_runtime.evaluation import evaluate_bundle, read_cases, summarise
>>> rows = evaluate_bundle(read_cases(Path("cases.csv")), Registrar())  # doctest: +SKIP
>>> summarise(rows)["measures"]["dice_after"]["mean"]  # doctest: +SKIP
"""

from rwcnet_runtime.evaluation.cases import Case, read_cases
from rwcnet_runtime.evaluation.evaluate import evaluate_bundle, evaluate_fields
from rwcnet_runtime.evaluation.measures import measure
from rwcnet_runtime.evaluation.summary import summarise

__all__ = [
    "Case",
    "evaluate_bundle",
    "evaluate_fields",
    "measure",
    "read_cases",
    "summarise",
]
