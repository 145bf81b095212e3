"""The presets live in experiments/ beside their README; installed, they are the package llc_dynamics.presets."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["llc_dynamics*"]), "llc_dynamics.presets"],
    package_dir={"llc_dynamics.presets": "experiments/transient_ridge"},
    package_data={"llc_dynamics": ["py.typed", "**/*.html", "**/*.css"], "llc_dynamics.presets": ["*.toml"]},
)
