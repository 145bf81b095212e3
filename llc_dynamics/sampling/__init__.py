"""Kernels that move one chain, and the engine that runs many chains over any module."""

from llc_dynamics.sampling.engine import ChainTraces, FailedChain, run_chains
from llc_dynamics.sampling.kernel import Kernel
from llc_dynamics.sampling.sgld import SGLD

__all__ = ["SGLD", "ChainTraces", "FailedChain", "Kernel", "run_chains"]
