"""Attention heads of any model that names them: masking, pruning, linear probes, weight-restricted LLCs."""

from llc_dynamics.heads.importance import HeadImportance, head_importance, pruned_heads
from llc_dynamics.heads.named import Head, Heads
from llc_dynamics.heads.over_training import ImportanceHistory, head_llc_curves, importance_over_training
from llc_dynamics.heads.probes import probe_risk
from llc_dynamics.heads.risk import Risk

__all__ = [
    "Head",
    "HeadImportance",
    "Heads",
    "ImportanceHistory",
    "Risk",
    "head_importance",
    "head_llc_curves",
    "importance_over_training",
    "probe_risk",
    "pruned_heads",
]
