"""Joint trajectory PCA: one low-dimensional picture of how several runs' functions moved during training."""

from llc_dynamics.pca.cosine import cosine_content, random_walk_cosine_content
from llc_dynamics.pca.joint import JointTrajectoryPCA

__all__ = ["JointTrajectoryPCA", "cosine_content", "random_walk_cosine_content"]
