"""Exact learning coefficients, problems that have them, and what the free energy predicts.

The problems are loaded when they are first used: formulas need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llc_dynamics.lazy import lazy_names
from llc_dynamics.theory.crossover import Crossover, crossover
from llc_dynamics.theory.deep_linear import (
    deep_linear_llc,
    deep_linear_multiplicity,
    reduced_rank_llc,
    reduced_rank_multiplicity,
)
from llc_dynamics.theory.free_energy import Preference, Solution, free_energy, preference
from llc_dynamics.theory.normal_crossing import localized_normal_crossing_llc, normal_crossing_llc
from llc_dynamics.theory.quadratic import quadratic_llc, quadratic_sgld_llc
from llc_dynamics.theory.two_parameter_family import (
    localized_two_parameter_family_llc,
    two_parameter_family_llc,
    two_parameter_family_outputs,
)

if TYPE_CHECKING:
    from llc_dynamics.theory.losses import half_squared_error as half_squared_error
    from llc_dynamics.theory.losses import mean_squared_error as mean_squared_error
    from llc_dynamics.theory.losses import squared_error as squared_error
    from llc_dynamics.theory.networks import DeepLinearData as DeepLinearData
    from llc_dynamics.theory.networks import DeepLinearNetwork as DeepLinearNetwork
    from llc_dynamics.theory.networks import ReLUNetwork as ReLUNetwork
    from llc_dynamics.theory.networks import rank_minimal_network as rank_minimal_network
    from llc_dynamics.theory.networks import rescaled as rescaled
    from llc_dynamics.theory.potentials import NormalCrossing as NormalCrossing
    from llc_dynamics.theory.potentials import Quadratic as Quadratic
    from llc_dynamics.theory.potentials import TwoParameterFamily as TwoParameterFamily
    from llc_dynamics.theory.potentials import family_data as family_data
    from llc_dynamics.theory.potentials import potential_data as potential_data

_HOME = {
    name: f"llc_dynamics.theory.{module}"
    for module, names in {
        "losses": ("half_squared_error", "mean_squared_error", "squared_error"),
        "networks": ("DeepLinearData", "DeepLinearNetwork", "ReLUNetwork", "rank_minimal_network", "rescaled"),
        "potentials": ("NormalCrossing", "Quadratic", "TwoParameterFamily", "family_data", "potential_data"),
    }.items()
    for name in names
}

__all__ = [
    *_HOME,
    "Crossover",
    "Preference",
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
    "reduced_rank_llc",
    "reduced_rank_multiplicity",
    "two_parameter_family_llc",
    "two_parameter_family_outputs",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
