"""Sphinx: MyST pages, and the API from the docstrings."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import switch_source_input

import unveil

project = "unveil"
author = "the unveil authors"
html_title = "unveil"
html_theme = "furo"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Tutorials are notebooks, executed where they cannot leave files behind; an error in one fails the build.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
exclude_patterns = ["_build"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_custom_sections = ["Queries", "Source"]
napoleon_use_ivar = True
napoleon_use_rtype = False


class PublicNames(Directive):
    """Names of the face with their docstrings, in the order given."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for name in " ".join(self.content).split():
            thing = getattr(unveil, name)
            kind = "class" if isinstance(thing, type) else "function" if callable(thing) else "data"
            lines += [f".. auto{kind}:: unveil.{name}"]
            lines += ["   :members:"] if kind == "class" and not issubclass(thing, Exception) else []
            lines += ["   :no-index-entry:", ""] if kind == "data" else [""]
        inside = nodes.container()
        text = StringList(lines, source="docs/api.md")
        with switch_source_input(self.state, text):
            self.state.nested_parse(text, self.content_offset, inside)
        return inside.children


def house_style(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written as Markdown is, with `code` and $formula$; reStructuredText needs the rest escaped."""
    in_example = False
    for place, line in enumerate(lines):
        # An example is taken as it stands, up to the empty line that ends it.
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if in_example:
            continue
        parts = re.split(r"(`[^`]*`|\$[^$]+\$|\*\w+\*)", line)
        parts[::2] = [re.sub(r"(?<!\*)\*(?!\*)|\||_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        parts[1::2] = [f":math:`{part[1:-1]}`" if part.startswith("$") else part for part in parts[1::2]]
        lines[place] = "".join(parts)


def setup(app: Sphinx) -> None:
    app.add_directive("public-names", PublicNames)
    # Before napoleon, which runs at the default priority of 500.
    app.connect("autodoc-process-docstring", house_style, priority=400)
