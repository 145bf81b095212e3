"""The presets live in experiments/ beside their README; installed, they are the packages llc_dynamics.presets.*."""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = sorted({file.parent.name for file in Path(__file__).parent.glob("experiments/*/*.toml")})
PRESETS = {f"llc_dynamics.presets.{folder}": f"experiments/{folder}" for folder in FOLDERS}

setup(
    packages=[*find_packages(include=["llc_dynamics*"]), *PRESETS],
    package_dir=PRESETS,
    package_data={
        "llc_dynamics": ["py.typed", "**/*.html", "**/*.css", "**/*.json"],
        **{name: ["*.toml"] for name in PRESETS},
    },
)
