"""Data distributions and their ideal predictors."""

from llc_dynamics.tasks.in_context_regression import InContextRegression
from llc_dynamics.tasks.predictors import dmmse, ridge

__all__ = ["InContextRegression", "dmmse", "ridge"]
