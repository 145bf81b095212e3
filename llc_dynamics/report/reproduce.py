"""The commands that make the runs of a page again."""

from __future__ import annotations

import shlex
from pathlib import Path

from llc_dynamics.errors import LLCDynamicsError
from llc_dynamics.report.toml_text import toml_text
from llc_dynamics.settings import to_mapping


def reproduce_commands(folder: Path | None, llc_name: str) -> tuple[str, str | None]:
    """Shell commands, and the text of the preset file where no preset of the package describes the runs."""
    from llc_dynamics.sweeps import stored_sweep

    if folder is None:
        return "# the runs come from different folders; see the settings of each above\n", None
    shown = shlex.quote(folder.name or str(folder))
    again = [
        "# check the stored bytes, and write this page again",
        f"llc-dynamics verify {shown}",
        f"llc-dynamics report {shown}" + ("" if llc_name == "llc" else f" --name {shlex.quote(llc_name)}"),
    ]
    try:
        sweep = stored_sweep(folder)
    except LLCDynamicsError:
        return "\n".join([*again, "", "# these runs were recorded by a training loop of their own\n"]), None
    source, preset = _preset(sweep.name, sweep.seed, to_mapping(sweep))
    seed = f" --seed {sweep.seed}" if preset is None else ""
    out = f"runs/{shlex.quote(sweep.name)}-again"
    commands = [
        *again,
        "",
        "# train, estimate and report anew",
        f"llc-dynamics train {source} --out {out}{seed}",
        f"llc-dynamics llc {out}",
        f"llc-dynamics report {out}",
        "",
    ]
    return "\n".join(commands), preset


def _preset(name: str, seed: int, settings: dict) -> tuple[str, str | None]:
    from llc_dynamics.sweeps import load_preset, preset_names

    if name in preset_names() and to_mapping(load_preset(name).with_seed(seed)) == settings:
        return name, None
    return "preset.toml", toml_text(settings)
