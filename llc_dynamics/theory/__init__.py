"""Exact learning coefficients, exact estimates to test samplers with, and what the free energy predicts."""

from llc_dynamics.theory.crossover import Crossover, crossover
from llc_dynamics.theory.deep_linear import deep_linear_llc, deep_linear_multiplicity
from llc_dynamics.theory.free_energy import Preference, Solution, free_energy, preference
from llc_dynamics.theory.normal_crossing import localized_normal_crossing_llc, normal_crossing_llc
from llc_dynamics.theory.order import RankAgreement, rank_agreement
from llc_dynamics.theory.quadratic import quadratic_llc, quadratic_sgld_llc
from llc_dynamics.theory.reduced_rank import reduced_rank_llc, reduced_rank_multiplicity
from llc_dynamics.theory.two_parameter_family import (
    localized_two_parameter_family_llc,
    two_parameter_family_llc,
    two_parameter_family_outputs,
)

__all__ = [
    "Crossover",
    "Preference",
    "RankAgreement",
    "Solution",
    "crossover",
    "deep_linear_llc",
    "deep_linear_multiplicity",
    "free_energy",
    "localized_normal_crossing_llc",
    "localized_two_parameter_family_llc",
    "normal_crossing_llc",
    "preference",
    "quadratic_llc",
    "quadratic_sgld_llc",
    "rank_agreement",
    "reduced_rank_llc",
    "reduced_rank_multiplicity",
    "two_parameter_family_llc",
    "two_parameter_family_outputs",
]
