"""Multi-head attention on sparse regression in context (Chen, Zhao & Zou 2024, arXiv 2408.04532)."""
