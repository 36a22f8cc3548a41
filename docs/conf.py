"""The documentation's site: `sphinx-build -W docs build/site`.

The pages are plain Markdown that reads well on a code host, too. What only the site has is added here, as a page is
read: the navigation, from the lists of links in each `index.md`, and tabs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import executors

project = "quart-executors"
author = project_copyright = "the quart-executors authors"
release = version = executors.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_inline_tabs"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
default_role = "py:obj"  # docstrings write `name`, as Markdown does

autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseException,OSError,UserWarning,str",
    "exclude-members": "of",
}
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

if os.environ.get("DOCS_INVENTORIES"):  # links to the documentation of Python and Quart; they need a network
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "quart": ("https://quart.palletsprojects.com/en/latest", None),
    }

html_theme = "furo"
html_title = "quart-executors"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

DOCS = Path(__file__).parent
LISTED = re.compile(r"^(?:- |\d+\. |  ).*", re.MULTILINE)
LINK = re.compile(r"\]\(([\w./-]+)\.md\)")
TABS = re.compile(r"^<!-- tabs -->\n(.*?)^<!-- end of tabs -->$", re.MULTILINE | re.DOTALL)
TAB = re.compile(r"^\*\*([^*\n]+)\*\*\n(.*?)(?=^\*\*[^*\n]+\*\*\n|\Z)", re.MULTILINE | re.DOTALL)


def toctree(caption: str, pages: list[str]) -> str:
    options = [":hidden:", f":caption: {caption}"] if caption else [":hidden:"]
    return "\n".join(["", "```{toctree}", *options, *pages, "```", ""])


def navigation(text: str, folder: Path) -> str:
    """Append a toctree for each section of an index whose lists link to pages below it, and one for all other pages."""
    pages = {*folder.rglob("*.md")} - {folder / "index.md"}
    for index in folder.glob("*/**/index.md"):  # it lists its own pages
        pages -= {*index.parent.rglob("*.md")} - {index}
    left = {str(page.relative_to(folder).with_suffix("")) for page in pages}
    preamble, *sections = re.split(r"^## (?=(.*))", text, flags=re.MULTILINE)
    for caption, section in [("", preamble), *zip(sections[::2], sections[1::2], strict=True)]:
        if found := [page for page in dict.fromkeys(LINK.findall("\n".join(LISTED.findall(section)))) if page in left]:
            text += toctree(caption, found)
            left.difference_update(found)
    return text + toctree("More", sorted(left)) if left else text


def tabs(text: str) -> str:
    """Between `<!-- tabs -->` and `<!-- end of tabs -->`, a line in bold begins a tab."""
    return TABS.sub(lambda region: TAB.sub(r"::::{tab} \1\n\2\n::::\n", region[1]), text)


def read(app: object, page: str, source: list[str]) -> None:
    text = tabs(source[0])
    source[0] = navigation(text, (DOCS / page).parent) if Path(page).name == "index" else text


def whole_docstring(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Undo that napoleon takes what precedes a colon in an attribute's docstring for its type."""
    types = [line for line in lines if line.startswith(":type: ")]
    if what in {"property", "attribute"} and types:
        lines[:] = [f"{types[0].removeprefix(':type: ')}: {lines[0]}", *lines[1 : lines.index(types[0])]]


def readable_signature(
    app: object, what: str, name: str, thing: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write a ParamSpec in a way that Sphinx can parse."""
    return signature and re.sub(r"~typing\.~(?=P\b)|~(?=P\b)", "", signature), returns


def setup(app: Any) -> None:
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", whole_docstring, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", readable_signature)
