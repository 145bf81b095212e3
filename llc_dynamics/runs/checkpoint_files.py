"""Which files of a folder are checkpoints, and of which step."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from llc_dynamics.errors import ConfigError, TrajectoryError, some_of
from llc_dynamics.runs.weight_files import INDEX, PICKLED, SAFETENSORS
from llc_dynamics.trajectory.names import is_run

_SUFFIXES = (*SAFETENSORS, *PICKLED)
#: What a folder of one checkpoint keeps its weights in, in the order of preference.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
#: What trainings leave beside the weights of the steps; `last.ckpt` of Lightning is a copy of one.
_BESIDE = re.compile(
    r"(?<![a-z])(optim(izer)?s?|schedulers?|rng|random_states?|scaler|sampler|training_args)(?![a-z])|^last(-v\d+)?$",
    re.I,
)
_PART = re.compile(r".*-\d{5}-of-\d{5}\.\w+")
_STEP = re.compile(
    r"(?<![a-z])(?:global_?)?(?:steps?|iter(?:ation)?s?|checkpoint|ckpt)[-_=. ]*(\d+)(?![\d.]*\d|[a-z])", re.I
)
_NUMBER = re.compile(r"(?<![\d.])\d+(?![\d.]*\d|[a-zA-Z])")
_LARGEST = 1 << 62


def find_checkpoints(folder: Path, pattern: str | None = None) -> dict[int, Path]:
    """The checkpoints of a folder by step, increasing.

    Without a pattern, every file in the folder that ends in .safetensors, .pt, .pth, .bin or .ckpt is one, or, if there
    are none, every subfolder that holds weights (`step1000/model.safetensors`, `checkpoint-500/pytorch_model.bin`, or
    an index of several files), or the revisions in a folder of Hugging Face's cache. The step is the number behind
    "step", "iter" or "checkpoint" in the name, or else the only number in it. States of optimisers, schedulers and
    generators beside the weights are left alone.

    Parameters
    ----------
    pattern : which paths, relative to the folder and with '/', are checkpoints: `{step}` stands for the step, `*` for
        anything within a name. What does not match is left out.

    Raises
    ------
    TrajectoryError
        No such folder, no checkpoint in it, a name without a step or with several numbers, or a step that two names
        have; the files are named.
    ConfigError
        A pattern without `{step}`.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise TrajectoryError(f"{folder}: {what}; give a folder of checkpoints, or a file of `llc-dynamics export`")
    if is_run(folder):
        raise TrajectoryError(f"{folder}: this is a run already; copy or move the folder as it is")
    found = _matching(folder, pattern) if pattern is not None else _guessed(folder)
    steps: dict[int, Path] = {}
    for step, path in found:
        if step in steps:
            raise TrajectoryError(
                f"{folder}: step {step} twice, in {steps[step].relative_to(folder)} and {path.relative_to(folder)}; "
                "say with --pattern which files to take, as in --pattern 'model_{step}.pt'"
            )
        if step >= _LARGEST:
            raise TrajectoryError(f"{path}: {step} is no step of a training; give --pattern")
        steps[step] = path
    return dict(sorted(steps.items()))


def _guessed(folder: Path) -> list[tuple[int, Path]]:
    """All files of the folder, else all subfolders, each with the step in its name."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    chosen = {entry: entry for entry in _weight_files(entries)}
    if (folder / "refs").is_dir() and (folder / "snapshots").is_dir():
        chosen = _cached(folder)
    elif not any(_numbers(entry.stem) for entry in chosen):
        # A final model, or its settings, may lie beside the subfolders of the steps.
        subfolders = [entry for entry in entries if entry.is_dir() and (not chosen or _numbers(entry.name))]
        chosen = {entry: path for entry in subfolders if (path := _weights_in(entry)) is not None} or chosen
    if not chosen:
        raise TrajectoryError(
            f"{folder}: no checkpoints in it: neither files ({', '.join(_SUFFIXES)}) nor subfolders with weights, such "
            "as step1000/model.safetensors. (Distributed checkpoints, *.distcp, become files by "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE)"
        )
    without: list[str] = []
    ambiguous: list[str] = []
    found = []
    for entry, path in chosen.items():
        name = entry.stem if entry.suffix in _SUFFIXES else entry.name
        numbers = _numbers(name)
        if len(numbers) == 1:
            found.append((int(numbers[0]), path))
        else:
            (ambiguous if numbers else without).append(entry.name)
    advice = "say with --pattern which files to take and where the step stands, as in --pattern 'model_{step}.pt'"
    if without:
        raise TrajectoryError(f"{folder}: no step in the name of {some_of(without, 5)}; {advice}")
    if ambiguous:
        raise TrajectoryError(f"{folder}: several numbers in the name of {some_of(ambiguous, 5)}; {advice}")
    return found


def _numbers(name: str) -> list[str]:
    """What may be the step in a name."""
    return list(dict.fromkeys(_STEP.findall(name) or _NUMBER.findall(name)))


def _cached(folder: Path) -> dict[Path, Path]:
    """The revisions in a folder of Hugging Face's cache: `refs/step1000` holds the name of a folder in `snapshots/`."""
    chosen = {}
    for ref in sorted((folder / "refs").iterdir()):
        name = ref.read_text(encoding="utf-8", errors="replace").strip() if ref.is_file() else ""
        snapshot = folder / "snapshots" / name
        if _numbers(ref.name) and re.fullmatch(r"[0-9a-f]{6,64}", name) and snapshot.is_dir():
            path = _weights_in(snapshot)
            if path is not None:
                chosen[ref] = path
    return chosen


def _matching(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """The files, or folders with weights, that match a pattern."""
    if pattern.count("{step}") != 1 or pattern.startswith("/") or ".." in pattern.split("/"):
        raise ConfigError(
            f"--pattern {pattern!r}: write {{step}} once where the step stands, relative to the folder, as in "
            "'model_{step}.pt' or 'step{step}/model.safetensors'; * stands for anything within a name"
        )
    names: list[Callable[[str], re.Match[str] | None]] = [_compiled(part) for part in pattern.strip("/").split("/")]
    places: list[tuple[Path, int]] = [(folder, -1)]
    for depth, matches in enumerate(names):
        deeper = []
        for place, step in places:
            for entry in sorted(place.iterdir()) if place.is_dir() else ():
                found = matches(entry.name)
                if found and (entry.is_dir() or depth == len(names) - 1):
                    deeper.append((entry, int(found["step"]) if "step" in found.groupdict() else step))
        places = deeper
    chosen = []
    for place, step in places:
        path = _weights_in(place) if place.is_dir() else place
        if path is not None and (path.suffix in _SUFFIXES or path.name.endswith(INDEX)):
            chosen.append((step, path))
    if not chosen:
        raise TrajectoryError(f"{folder}: no checkpoint matches {pattern!r}; it has {some_of(_names(folder), 5)}")
    return chosen


def _compiled(part: str) -> Callable[[str], re.Match[str] | None]:
    signs = {"{step}": r"(?P<step>\d+)", "*": ".*?"}
    pieces = re.split(r"(\{step\}|\*)", part)
    return re.compile("".join(signs.get(piece, re.escape(piece)) for piece in pieces)).fullmatch


def _weights_in(folder: Path) -> Path | None:
    """The weights of a folder that holds one checkpoint; None if there are none."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    files = [entry for entry in _weight_files(sorted(folder.iterdir())) if not _PART.fullmatch(entry.name)]
    if len(files) > 1:
        example = re.sub("[0-9]+", "{step}", folder.name, count=1) + f"/{files[0].name}"
        raise TrajectoryError(
            f"{folder}: several files may be the checkpoint ({some_of([entry.name for entry in files], 5)}); say which "
            f"with --pattern, as in --pattern '{example}'"
        )
    return files[0] if files else None


def _weight_files(entries: list[Path]) -> list[Path]:
    """The files that may hold weights, without the states of optimisers and generators if there are others."""
    files = [entry for entry in entries if entry.is_file() and entry.suffix in _SUFFIXES]
    return [entry for entry in files if not _BESIDE.search(entry.stem)] or files


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
