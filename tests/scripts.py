"""Scripts of experiments/ as modules, for the tests of what is in them."""

import importlib
import importlib.util
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def load_script(name):
    """The script at experiments/`name`, as a module; its own folder comes first while it imports."""
    path = EXPERIMENTS / name
    own = f"experiments.{name.removesuffix('.py').replace('/', '.')}"
    if own in sys.modules:
        return sys.modules[own]
    spec = importlib.util.spec_from_file_location(own, path)
    module = sys.modules[own] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def load_together(folder, *names):
    """Modules of one folder that import each other, by the names that they do it by."""
    place = str(EXPERIMENTS / folder)
    sys.path.insert(0, place)
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(place)
