"""Linear transformers on in-context regression with mixed noise (Vladymyrov et al. 2024)."""
