"""Settings of Sphinx: `make docs`, or `sphinx-build -W docs OUT`."""

import os
import re
from pathlib import Path

import llc_dynamics

project = "llc_dynamics"
author = "The llc_dynamics developers"
version = release = llc_dynamics.__version__
html_title = f"llc_dynamics {version}"
html_theme = "furo"
html_show_copyright = html_copy_source = False

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # a tutorial holds its outputs; tests execute it
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_use_param = napoleon_use_rtype = False
napoleon_custom_sections = [("Fields", "params_style")]
default_role = "code"

HERE = Path(__file__).parent
INCLUDE = re.compile(r"```\{include\} (\S+\.md)")
INCLUDED = {  # a file of the repository: the page that includes it
    (page.parent / target).resolve(): page
    for page in HERE.rglob("*.md")
    for target in INCLUDE.findall(page.read_text())
}
LINK = re.compile(r"\[([^]\[]*)\]\((?!https?:|#)([^)#\s]+)([^)]*)\)")
ENTRY = re.compile(r"^([\w*]+(?:, [\w*]+)*) : (.+)$")
MARKUP = re.compile(r"[*|]|(?<=\w)_(?!\w)")


def links_of(text: str, written: Path, page: Path) -> str:
    """Relative links of a file, as they are from a page.

    A link to a file that some page includes goes to that page. One to a folder is only its text.
    """

    def link(match: re.Match[str]) -> str:
        target = (written.parent / match[2]).resolve()
        if target.is_dir():
            return match[1]
        return f"[{match[1]}]({os.path.relpath(INCLUDED.get(target, target), page.parent)}{match[3]})"

    return LINK.sub(link, text)


def read_page(app, docname, source):
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md":
        source[0] = links_of(source[0], page, page)


def read_included(app, relative_path, parent, source):
    written = (HERE / relative_path).resolve()
    source[0] = links_of(source[0], written, INCLUDED[written])


def read_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text, with entries `name : what it is` that name no types."""
    found = []
    for line in lines:
        parts = line.split("`")
        parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
        entry = ENTRY.match(line)
        if found and found[-1].startswith("    ") and line[:1].strip() and not entry:
            found.append("")
        if entry:
            found += [entry[1], "    " + "`".join(parts).split(" : ", 1)[1]]
        else:
            found.append("Fields" if line == "Attributes" else "`".join(parts))
    lines[:] = found


def setup(app):
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.connect("autodoc-process-docstring", read_docstring, priority=100)  # before napoleon
