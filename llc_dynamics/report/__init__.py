"""One self-contained HTML page from a run or a sweep, and the analysis behind it."""

from llc_dynamics.report.analysis import Analysis, RunAnalysis, analyse
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.page import render, write_report

__all__ = ["Analysis", "PCAAnalysis", "RunAnalysis", "analyse", "render", "write_report"]
