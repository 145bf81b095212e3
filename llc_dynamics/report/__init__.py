"""One self-contained HTML page from a run or a sweep, and the analysis behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llc_dynamics.lazy import lazy_names

if TYPE_CHECKING:
    from llc_dynamics.report.analysis import Analysis as Analysis
    from llc_dynamics.report.analysis import RunAnalysis as RunAnalysis
    from llc_dynamics.report.analysis import analyse as analyse
    from llc_dynamics.report.joint_pca import PCAAnalysis as PCAAnalysis
    from llc_dynamics.report.page import render as render
    from llc_dynamics.report.page import write_report as write_report

_HOME = {
    "Analysis": "llc_dynamics.report.analysis",
    "PCAAnalysis": "llc_dynamics.report.joint_pca",
    "RunAnalysis": "llc_dynamics.report.analysis",
    "analyse": "llc_dynamics.report.analysis",
    "render": "llc_dynamics.report.page",
    "write_report": "llc_dynamics.report.page",
}
__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
