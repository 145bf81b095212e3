"""A virtual environment of its own for each tool, made once and kept in a cache folder.

    python experiments/benchmarks/peers environments [--cache DIR]

pip is used as it is configured. On a machine without a GPU see that it finds a CPU build of torch (an index or a
`find-links` with one), or several GB of CUDA packages come along.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"


class EnvironmentMakingError(RuntimeError):
    """A tool could not be installed or imported; the message holds the end of what pip or Python said."""


@dataclass(frozen=True)
class Peer:
    """One tool: what pip installs, what must then import, and the module that runs it."""

    name: str
    requirements: tuple[str, ...]
    import_check: str
    adapter: str


# canonical-interp declares Python >= 3.10 but imports itertools.batched, which came with 3.12; the adapter supplies it.
# Its torchvision requirement is never imported; the release that belongs to TORCH keeps pip from searching.
_BATCHED = "import itertools; itertools.batched = getattr(itertools, 'batched', None); "
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("devinterp2", (TORCH, "devinterp==2.0.1"), "from devinterp.slt.llc import llc", "peers.run_devinterp2"),
        Peer(
            "devinterp1",
            (TORCH, "devinterp==1.3.2"),
            "from devinterp.slt.sampler import estimate_learning_coeff_with_summary",
            "peers.run_devinterp1",
        ),
        Peer(
            "canonical",
            (TORCH, "torchvision==0.28.0", "canonical-interp==0.1.5"),
            _BATCHED + "from canonical_interp.slt import LLCEstimator",
            "peers.run_canonical",
        ),
    )
}


def default_cache() -> Path:
    """The user's cache folder of this system, where the environments are kept unless told otherwise."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "llc_dynamics" / "peers"


def environment(peer: Peer, cache: Path | None = None) -> Path:
    """The python of `peer`'s environment in `cache`; made first if it is missing, unfinished or of other versions.

    Raises `EnvironmentMakingError` if a package cannot be installed or the tool does not import. `environment.json` in
    the environment's folder is written last and holds what was asked for and all versions that pip chose.
    """
    folder = (cache or default_cache()) / peer.name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "environment.json"
    wanted = {"requirements": list(peer.requirements), "python": sysconfig.get_python_version()}
    if stamp.exists():
        made = json.loads(stamp.read_text())
        if all(made.get(key) == value for key, value in wanted.items()) and python.exists():
            return python
    if folder.exists():
        if not (folder / "pyvenv.cfg").exists():
            raise EnvironmentMakingError(
                f"{folder} exists and is no virtual environment; move it away or give another --cache"
            )
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)], f"{peer.name}: making the virtual environment")
    install = [str(python), "-m", "pip", "install", "--no-input", "--quiet", *peer.requirements]
    _run(install, f"{peer.name}: installing {', '.join(peer.requirements)}")
    _run([str(python), "-c", peer.import_check], f"{peer.name}: importing the installed tool")
    frozen = _run([str(python), "-m", "pip", "freeze"], f"{peer.name}: listing versions").splitlines()
    # Written aside and renamed, so that an interrupted installation is never taken for a finished one.
    draft = stamp.with_suffix(".draft")
    draft.write_text(json.dumps({**wanted, "packages": frozen}, indent=1))
    draft.replace(stamp)
    return python


def _run(command: list[str], task: str) -> str:
    """Standard output of `command`, or `EnvironmentMakingError` with the end of its messages."""
    # A PYTHONPATH of the caller would show pip packages that are not in the environment.
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    finished = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if finished.returncode:
        said = "\n".join((finished.stderr or finished.stdout).strip().splitlines()[-15:])
        raise EnvironmentMakingError(
            f"{task} failed (exit status {finished.returncode}). The end of the messages:\n{said}\n"
            "Check that pip reaches an index that has these packages for this Python, then run again."
        )
    return finished.stdout
