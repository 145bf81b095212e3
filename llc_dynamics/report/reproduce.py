"""Where the runs of a page come from: settings, versions, and the commands that make them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from llc_dynamics.errors import LLCDynamicsError
from llc_dynamics.provenance import provenance
from llc_dynamics.report.analysis import Analysis, RunAnalysis
from llc_dynamics.report.numbers import listed
from llc_dynamics.report.tables import table
from llc_dynamics.settings import without_none
from llc_dynamics.systems.registry import is_file

_LONGEST = 20_000  # characters of settings that are shown


def settings_text(settings: Mapping[str, Any]) -> str:
    """TOML of a mapping of JSON types, so that a reader can copy it into a preset file; cut where it is very long.

    Keys whose value is None are left out: TOML has no null. What TOML cannot hold otherwise is shown as JSON.
    """
    import tomli_w

    try:
        text = tomli_w.dumps(without_none(settings))
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(settings, indent=1, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\n... ({len(text):,} characters in all)\n"


def provenance_markup(analysis: Analysis) -> str:
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in analysis.runs:
        seed = "not recorded" if run.seed is None else str(run.seed)
        groups.setdefault((*_origin(run.provenance), seed), []).append(run.label)
    rows = [[listed(labels), *origin] for origin, labels in groups.items()]
    rows.append(["This page", *_origin(provenance()), f"{analysis.seed} (bootstrap)"])
    return "\n".join([table(["", "Versions", "git commit", "Seed"], rows), *map(_settings, analysis.runs)])


def _origin(found: Mapping[str, Any]) -> tuple[str, str]:
    """Versions and commit, in words."""
    versions = found.get("versions")
    rows = [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, dict) else []
    if found.get("python"):
        rows.append(f"Python {found['python']}")
    if found.get("device"):
        rows.append(str(found["device"]))
    commit, _, changed = str(found.get("git_commit") or "").partition("+")
    commit = commit[:12] + (" with uncommitted changes" if changed else "")
    return ", ".join(rows) or "not recorded", commit or "not recorded"


def _settings(run: RunAnalysis) -> str:
    text = settings_text(run.config) if run.config else "no settings were recorded with this run\n"
    extra = ""
    if run.llc is not None and run.llc.results:
        shown = json.dumps(run.llc.results[0].settings, indent=2, default=str)[:_LONGEST]
        extra = f"<p>LLC curve, {len(run.llc)} points, one setting for all:</p><pre>{escape(shown)}</pre>"
    return (
        f"<details><summary>Settings of {escape(run.label)} ({escape(run.name)})</summary>"
        f"<pre>{escape(text)}</pre>{extra}</details>"
    )


def reproduce_markup(folder: Path | None, analysis: Analysis) -> str:
    text, preset = reproduce_commands(folder, analysis.llc_name)
    block = f"<pre>{escape(text)}</pre>"
    if preset is not None:
        block += (
            "<details><summary>The preset file that these runs were trained with</summary>"
            f"<pre>{escape(preset)}</pre></details>"
        )
    return block


def reproduce_commands(folder: Path | None, llc_name: str) -> tuple[str, str | None]:
    """Shell commands, and the text of the preset file where no preset of the package describes the runs."""
    from llc_dynamics.sweeps import load_preset, preset_names
    from llc_dynamics.sweeps.stored import stored_settings

    if folder is None:
        return "# the runs come from different folders; see the settings of each above\n", None
    shown = shlex.quote(folder.name or str(folder))
    again = [
        "# check the stored bytes, and write this page again",
        f"llc-dynamics verify {shown}",
        f"llc-dynamics report {shown}" + ("" if llc_name == "llc" else f" --name {shlex.quote(llc_name)}"),
    ]
    try:
        settings = stored_settings(folder)
    except LLCDynamicsError:
        return "\n".join([*again, "", "# these runs were recorded by a training loop of their own\n"]), None
    name, number, system = settings["name"], settings["seed"], settings["system"]["name"]
    source, seed, preset = "preset.toml", "", None
    same = [
        each
        for each in preset_names()
        if each.rpartition("/")[2] == name and load_preset(each).with_seed(number).to_mapping() == settings
    ]
    if same:
        source, seed = same[0], f" --seed {number}"
    else:
        preset = settings_text(settings)
    out = f"runs/{shlex.quote(name)}-again"
    own = f" --system {shlex.quote(system)}" if is_file(system) else ""
    commands = [
        *again,
        "",
        "# train, estimate and report anew",
        f"llc-dynamics train {source} --out {out}{seed}",
        f"llc-dynamics llc {out}{own}",
        f"llc-dynamics report {out}",
        "",
    ]
    return "\n".join(commands), preset
