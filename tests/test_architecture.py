"""What docs/architecture.md says is true: the order of the rooms, no circles, one paper's system in its folder only."""

import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llc_dynamics"
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
SYSTEM_WORDS = re.compile(r"ridge|dmmse|num_tasks", re.IGNORECASE)


def documented_rooms():
    """The rooms of the table, top to bottom."""
    table = (ROOT / "docs" / "architecture.md").read_text()
    return [room for line in table.splitlines() if line.startswith("| `") for room in re.findall(r"`(\w+)/`", line)]


def imports(path):
    """Modules of this package that a file imports, those for types included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("llc_dynamics"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llc_dynamics"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES or f"{inner}.__init__" in FILES else node.module


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""


def test_every_room_is_in_the_table():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(documented_rooms())


def test_rooms_import_from_those_above_only():
    order = ["", *dict.fromkeys(documented_rooms())]
    upwards = [
        f"{name} imports {target}"
        for name, path in FILES.items()
        if name != "llc_dynamics.__init__"  # its imports are for types and lazy names
        for target in imports(path)
        if order.index(room_of(target)) > order.index(room_of(name))
    ]
    assert upwards == []


def test_no_two_files_import_each_other():
    graph = {
        name: {target for target in imports(path) if target in FILES and target != name}
        for name, path in FILES.items()
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_outside_systems_names_what_one_system_has(path):
    if "systems" in path.parts:
        return
    tree = ast.parse(path.read_text())
    documented = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = path.read_text().splitlines()
    named = [
        line.strip() for number, line in enumerate(lines, 1) if number not in documented and SYSTEM_WORDS.search(line)
    ]
    # The names of the experiment's folder and of the demo are no knowledge of the system.
    assert [line for line in named if "transient_ridge" not in line] == []


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_names_of_a_room_are_listed_and_can_be_loaded(room):
    """Also where they are loaded when they are first used; the callbacks need packages of their own."""
    package = importlib.import_module(f"llc_dynamics.{room}")
    names = getattr(package, "__all__", [])
    assert {*names} <= {*dir(package)}
    for name in names:
        if "Callback" not in name:
            getattr(package, name)
