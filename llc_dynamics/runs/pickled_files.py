"""Files of `torch.save`, read without running anything in them: objects of foreign classes become placeholders."""

from __future__ import annotations

import builtins
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from llc_dynamics.errors import CorruptRunError, DataError, MissingPackageError
from llc_dynamics.trajectory.files import storage_errors

#: Modules whose functions no honest checkpoint names ("commands" is what pickle protocol 2 calls subprocess).
_HOSTILE = (
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "commands",
    "shutil",
    "socket",
    "ctypes",
    "importlib",
    "runpy",
    "pty",
)
_MOST_FOREIGN = 300
#: Instructions of pickle protocols 3 to 5.
_LATER_PROTOCOLS = (66, 67, *range(140, 152))
_ADVICE = "load it where it was made and save model.state_dict() alone"
_UNKNOWN = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
_CONTAINER = re.compile(r"Can only (?:(extend|append)|SETITEM).* but got <class 'foreign\.(.+)'>")


class Foreign:
    """Stands for an object of a class, or for the result of a function, that a file names: nothing of it is kept."""

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _ForeignList(Foreign):
    def __new__(cls, *_: Any) -> Any:
        return []


class _ForeignDict(Foreign):
    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()  # unlike a dict it may get attributes


class _NestedClass(Foreign):
    """For `getattr(outer, "inner")`, which is how a class within a class is written."""

    def __new__(cls, *_: Any) -> Any:
        return Foreign


def type_name(value: Any) -> str:
    """The class of a value, or that of the object that a placeholder stands for."""
    return type(value).__qualname__ if isinstance(value, Foreign) else type(value).__name__


def load_pickled(path: Path) -> Any:
    """What is in a file of `torch.save`, on the CPU.

    Read by `torch.load(weights_only=True)`. Where that meets a class or a function that it does not know, a placeholder
    is registered under its name, one more at each try, so that none of the file's own classes is made and none of its
    functions called. A name that stands for running code is refused.

    Raises
    ------
    CorruptRunError
        The file is cut short or damaged.
    DataError
        The file asks to run code, or its tensors need classes of other packages.
    """
    import torch

    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 6):
        # CVE-2025-32434: before 2.6 a hostile file could run code in spite of weights_only.
        raise MissingPackageError(
            f"{path}: reading {path.suffix} files safely needs torch 2.6 or newer, this is {torch.__version__}; "
            "update torch, or convert the files to safetensors"
        )
    with storage_errors(path, "read"):
        size = path.stat().st_size
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as parts:
                if sum(part.file_size for part in parts.infolist()) > size:
                    raise DataError(f"{path}: claims more bytes than it has; refused, torch.save writes no such file")
    known: dict[str, type[Foreign]] = {"nested": Foreign}
    for _ in range(_MOST_FOREIGN):
        placeholders: list[Any] = [(placeholder, name) for name, placeholder in known.items()]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(placeholders):
                # torch warns of unusual pickles; what matters of that is in the errors below.
                warnings.simplefilter("ignore", UserWarning)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            if not _add_placeholder(known, str(error)):
                raise _refusal(path, str(error), size) from None
        except Exception as error:
            # a file decides what torch meets in it, so that any error of Python is possible
            reason = f"{type(error).__name__}: {error}".split("\n")[0].split(". ")[0]
            if needed := list(known)[1:]:
                raise DataError(
                    f"{path}: it asks to run code ({', '.join(needed[:5])}), which was not done, and is not sound "
                    f"without ({reason}); {_ADVICE}"
                ) from None
            raise CorruptRunError(
                f"{path}: not a sound PyTorch file ({reason}, {size} bytes); get another copy, or {_ADVICE}"
            ) from None
    raise DataError(f"{path}: names more than {_MOST_FOREIGN} classes; {_ADVICE}")


def _add_placeholder(known: dict[str, type[Foreign]], message: str) -> bool:
    """Register what torch did not know, or make a known placeholder the container that it has to be."""
    if found := _UNKNOWN.search(message):
        # torch leaves "builtins." out
        name = found[1] if "." in found[1] else f"builtins.{found[1]}"
        if name in known or _runs_code(name):
            return False
        kind: type[Foreign] = _NestedClass if name == "builtins.getattr" else Foreign
    elif found := _CONTAINER.search(message):
        name, kind = found[2], _ForeignList if found[1] else _ForeignDict
        if not (name in known and known[name].__base__ is Foreign):
            return False
    else:
        return False
    known[name] = type(name, (kind,), {"__module__": "foreign"})
    return True


def _runs_code(name: str) -> bool:
    module, _, function = name.partition(".")
    if module in ("builtins", "__builtin__"):
        return function != "getattr" and not isinstance(getattr(builtins, function, None), type)
    return module in _HOSTILE


def _refusal(path: Path, message: str, size: int) -> DataError | CorruptRunError:
    if found := re.search(r"GLOBAL (\S+)", message):
        return DataError(f"{path}: it asks to run code ({found[1]}), which was not done. If you trust it, {_ADVICE}")
    if (found := re.search(r"Unsupported operand (\d+)", message)) and int(found[1]) in _LATER_PROTOCOLS:
        return DataError(
            f"{path}: not a sound PyTorch file: another pickle_protocol than torch.save's own, 2; {_ADVICE}"
        )
    reason = re.sub(r"^.*WeightsUnpickler error: ", "", message, flags=re.DOTALL).strip().split("\n")[0]
    return CorruptRunError(
        f"{path}: not a sound PyTorch file ({size} bytes), or more than tensors and plain values is in it ({reason}); "
        f"get another copy of it, or {_ADVICE}"
    )
