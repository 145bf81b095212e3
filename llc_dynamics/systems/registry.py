"""Systems by name: those of this package, and `my_file.py:MySystem` of a user's file.

A file is only ever loaded because a user names it, on the command line or in a preset that they pass; never because a
run folder says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from llc_dynamics import systems
from llc_dynamics.errors import ConfigError, LLCDynamicsError, TrajectoryError
from llc_dynamics.settings import from_mapping, nearest, to_mapping
from llc_dynamics.systems.system import System

_NEEDED = ("build", "loss")


def built_in() -> list[str]:
    """Names of the systems of this package: the folders beside this file."""
    return sorted(module.name for module in pkgutil.iter_modules(systems.__path__) if module.ispkg)


def system_class(spec: str, folder: Path | None = None) -> type[System]:
    """The class that `spec` names: a built-in name, or "my_file.py:MySystem", relative to `folder`.

    Raises `ConfigError` for an unknown name, a missing file or class, and for a file that fails to import.
    """
    if is_file(spec):
        path, _, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
        return _from_file((folder or Path()) / path, name)
    if spec not in built_in():
        raise ConfigError(f"system '{spec}' is unknown; {nearest(spec, built_in())} (your own: 'my_file.py:MySystem')")
    module = importlib.import_module(f"{systems.__name__}.{spec}.system")
    return next(value for value in vars(module).values() if getattr(value, "name", None) == spec)


def make_system(cls: type[System], fields: Mapping[str, Any], where: str) -> System:
    """An object of the class with these settings. Raises `ConfigError` for an unknown, mistyped or refused one."""
    if not dataclasses.is_dataclass(cls):
        if fields:
            raise ConfigError(
                f"{where}: {', '.join(map(str, fields))}: {cls.__name__} has no settings; make it a dataclass with them"
            )
        return calling(f"{cls.__name__}()", cls)
    made: System = calling(f"{cls.__name__} with these settings", from_mapping, cls, fields, where)
    return made


def name_of(system: System) -> str:
    """As it is stored with runs: the built-in name, or "my_file.py:MySystem" without the folder of the file."""
    path, _, name = spec_of(system).rpartition(":")
    return f"{Path(path).name}:{name}" if path else name


def spec_of(system: System) -> str:
    """From which `system_class` finds the class again, in another process."""
    cls = type(system)
    if cls.__module__.startswith(f"{systems.__name__}."):
        return cls.name
    try:
        path = inspect.getsourcefile(cls)
    except (TypeError, OSError):
        path = None
    return cls.__qualname__ if path is None else f"{Path(path).resolve()}:{cls.__qualname__}"


def system_mapping(system: System) -> dict[str, Any]:
    """The `[system]` table: name and settings."""
    fields: dict[str, Any] = to_mapping(system) if dataclasses.is_dataclass(system) else {}
    return {"name": name_of(system), **fields}


def system_of(table: Any, where: str, given: type[System] | None = None, folder: Path | None = None) -> System:
    """The system of a `[system]` table, or of a name alone.

    given : the class, where the user named it besides; the table's name then has to be that of the same class.
    folder : of the preset that the user passed, for files; None for the table of a run, which loads none.

    Raises `ConfigError` for what is no system, and `TrajectoryError` for a run's file that the user has to name.
    """
    fields: Any = {"name": table} if isinstance(table, str) else table
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name", ""), str):
        raise ConfigError(f'{where}: system: expected a table with name = "...", got {ascii(table)[:80]}')
    own = {key: value for key, value in fields.items() if key != "name"}
    name = fields.get("name")
    if given is None:
        if name is None:
            raise ConfigError(f"{where}: system: give its name; {nearest('', built_in())}, or 'my_file.py:MySystem'")
        if folder is None and is_file(name):
            raise TrajectoryError(
                f"{where}: trained with the system {ascii(name)[:80]}, which is not part of this package, and a folder "
                "loads no code by itself; name it: --system PATH/TO/FILE.py:CLASS"
            )
        given = system_class(name, folder)
    elif name is not None and name.rpartition(":")[2] != _last_name(given):
        raise ConfigError(
            f"{where}: the system is {ascii(name)[:80]} there, and {_last_name(given)} was given; name the same one"
        )
    return make_system(given, own, f"{where}: system")


def system_of_run(config: Mapping[str, Any], where: str, given: type[System] | None) -> System:
    """The system of a run with this stored configuration.

    A run that `training` recorded has its system's settings; a run of another loop has those that `given` has by
    default. Raises `TrajectoryError` for a run whose system nobody named.
    """
    table = config.get("system")
    ours = isinstance(table, Mapping) and isinstance(table.get("name"), str) and "training" in config
    if given is None and not ours:
        raise TrajectoryError(
            f"{where}: recorded by a training loop of its own; name its system, --system my_file.py:MySystem, or call "
            "ld.llc_curve(run, model, loss_fn, data) in Python"
        )
    return system_of(table, where, given) if ours else make_system(given, {}, where)  # type: ignore[arg-type]


def calling(what: str, function: Any, *arguments: Any) -> Any:
    """`function(*arguments)` of a user's class. Raises `ConfigError` with its error and the line, not a traceback."""
    try:
        return function(*arguments)
    except LLCDynamicsError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = str(Path(systems.__path__[0]).parent)
        own = [each for each in frames if "site-packages" not in each.filename and not each.filename.startswith(ours)]
        at = (own or frames)[-1]
        raise ConfigError(
            f"{what} fails: {type(error).__name__}: {' '.join(str(error).split())[:300]} "
            f"({Path(at.filename).name}, line {at.lineno})"
        ) from error


def adopted(cls: type) -> type[System]:
    """The class itself, or where it does not inherit from `System`, one that does and has its methods."""
    if issubclass(cls, System):
        return cls
    return type(cls.__name__, (cls, System), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


def _last_name(cls: type[System]) -> str:
    return cls.name if cls.__module__.startswith(f"{systems.__name__}.") else cls.__qualname__


def is_file(spec: str) -> bool:
    """Whether a system's name is that of a class in a user's file."""
    return ":" in spec or spec.endswith(".py")


def _from_file(path: Path, name: str) -> type[System]:
    module = _module(path)
    if not name:
        raise ConfigError(f"{path}: say which class, '{path.name}:NAME'; {_classes_there(module)}")
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise ConfigError(f"{path}: no class '{name}'; {_classes_there(module, name)}")
    missing = [method for method in _NEEDED if not callable(getattr(found, method, None))]
    if missing:
        raise ConfigError(
            f"{path}: {name} is no system: it has no {' and no '.join(missing)}; {_classes_there(module)}"
        )
    return adopted(found)


def _module(path: Path) -> ModuleType:
    """The file as a module, once a process; its folder is where it may import from."""
    path = path.resolve()
    name = f"llc_dynamics_system_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a system of your own is 'my_file.py:MySystem'")
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(specification)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:
        del sys.modules[name]
        raise ConfigError(
            f"{path}, line {_line(error, path)}: the file cannot be imported: {type(error).__name__}: {_first(error)}"
        ) from error
    cloudpickle.register_pickle_by_value(module)  # other processes have no module of this name
    return module


def _line(error: BaseException, path: Path) -> int | str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or "?"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] or "?" if lines else "?"


def _first(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return (text.strip().splitlines() or ["no message"])[0]


def _classes_there(module: ModuleType, wanted: str = "") -> str:
    """Advice: the systems of a file, the nearest first."""
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    names = [cls.__name__ for cls in own if all(callable(getattr(cls, method, None)) for method in _NEEDED)]
    return nearest(wanted, names) if names else f"it has no class with {' and '.join(_NEEDED)}"
