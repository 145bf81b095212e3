"""Kernels that move chains, and the engine that runs many chains over any module."""

from llc_dynamics.sampling.behavioural import Behavioural, behavioural
from llc_dynamics.sampling.engine import Chains
from llc_dynamics.sampling.kernel import KERNELS, Evaluation, Kernel, Noise, Target
from llc_dynamics.sampling.metropolis import HMC, MALA, MALT
from llc_dynamics.sampling.rmsprop import RMSpropSGLD
from llc_dynamics.sampling.settings import ChainSettings
from llc_dynamics.sampling.sgld import SGLD
from llc_dynamics.sampling.traces import ChainTraces, FailedChain
from llc_dynamics.sampling.underdamped import Underdamped

KERNELS.update({kernel.__name__: kernel for kernel in (SGLD, RMSpropSGLD, Underdamped, MALT, HMC, MALA)})

__all__ = [
    "HMC",
    "KERNELS",
    "MALA",
    "MALT",
    "SGLD",
    "Behavioural",
    "ChainSettings",
    "ChainTraces",
    "Chains",
    "Evaluation",
    "FailedChain",
    "Kernel",
    "Noise",
    "RMSpropSGLD",
    "Target",
    "Underdamped",
    "behavioural",
]
