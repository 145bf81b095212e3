"""The presets live in experiments/ beside their README; installed, they are the packages llc_dynamics.presets.*."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = sorted({file.parent.name for file in Path(__file__).parent.glob("experiments/*/*.toml")})
PRESETS = {f"llc_dynamics.presets.{folder}": f"experiments/{folder}" for folder in FOLDERS}


class Build(build_py):
    """The scripts beside the presets need the repository and stay there."""

    def find_package_modules(self, package, package_dir):
        return [] if package in PRESETS else super().find_package_modules(package, package_dir)


setup(
    packages=[*find_packages(include=["llc_dynamics*"]), *PRESETS],
    package_dir=PRESETS,
    package_data={
        "llc_dynamics": ["py.typed", "**/*.html", "**/*.css", "**/*.js", "**/*.json"],
        **{name: ["*.toml"] for name in PRESETS},
    },
    cmdclass={"build_py": Build},
)
