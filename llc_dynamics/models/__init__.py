"""Models of the worked systems."""

from llc_dynamics.models.in_context_transformer import PRESETS, InContextTransformer, TransformerConfig

__all__ = ["PRESETS", "InContextTransformer", "TransformerConfig"]
