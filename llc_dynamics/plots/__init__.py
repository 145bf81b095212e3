"""Figures: `plot_*(..., ax=None) -> Axes`, from curves and arrays, without any hidden state."""

from llc_dynamics.plots.free_energy import plot_free_energy
from llc_dynamics.plots.geometry import plot_osculating_circles
from llc_dynamics.plots.llc import plot_llc_against, plot_llc_curve, plot_trace
from llc_dynamics.plots.losses import plot_distances, plot_loss, plot_rebound
from llc_dynamics.plots.pca import plot_components_over_time, plot_explained_variance, plot_trajectory_pca
from llc_dynamics.plots.resolution import plot_calibration, plot_spectrum
from llc_dynamics.plots.stages import plot_null_rates, plot_stages
from llc_dynamics.plots.step_axis import set_step_axis
from llc_dynamics.plots.style import RC, SeriesStyle, axis_colors, series_styles

__all__ = [
    "RC",
    "SeriesStyle",
    "axis_colors",
    "plot_calibration",
    "plot_components_over_time",
    "plot_distances",
    "plot_explained_variance",
    "plot_free_energy",
    "plot_llc_against",
    "plot_llc_curve",
    "plot_loss",
    "plot_null_rates",
    "plot_osculating_circles",
    "plot_rebound",
    "plot_spectrum",
    "plot_stages",
    "plot_trace",
    "plot_trajectory_pca",
    "series_styles",
    "set_step_axis",
]
