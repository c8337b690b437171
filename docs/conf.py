"""The site: Sphinx reads these pages (`sphinx-build -W docs site`), runs those that draw, fills the API reference."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# pages that run code ask the sandbox, never a server that somebody set for their own work
os.environ["NGLUI_DISABLE_CAPABILITY_PROBE"] = "1"
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.environ["CORTEXCLIENT_CONFIG_DIR"] = tempfile.mkdtemp(prefix="cortexclient-docs-")

import generate  # noqa: E402
from sphinx.search.en import SearchEnglish  # noqa: E402

import cortexclient  # noqa: E402

generate.write_all()

project = "cortexclient"
author = "The cortexclient developers"
copyright = "The cortexclient developers, MIT licence"  # noqa: A001
version = release = cortexclient.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute"]
default_role = "code"  # a single backtick in a docstring marks code

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_url_schemes = ("http", "https", "mailto")
nb_execution_mode = (
    "cache"  # a page runs again when its code has changed; delete site/.jupyter_cache after other changes
)
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "remove"  # progress bars
nb_execution_show_tb = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types, with shapes and units
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "cortexclient"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "_static" / "search.js")
toc_object_entries_show_parents = "hide"
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"
html_theme_options: dict[str, Any] = {
    "light_css_variables": {"color-brand-primary": "#3d5a98", "color-brand-content": "#3d5a98"},
    "dark_css_variables": {"color-brand-primary": "#9db7f0", "color-brand-content": "#9db7f0"},
}

_ROLES = re.compile(r":(?:func|class|meth|attr|data|mod|exc):(?=`)")


def _plain_code(*arguments: Any) -> None:
    """Show references of docstrings as code: what they name is found by the search."""
    lines = arguments[-1]
    lines[:] = [_ROLES.sub("", line) for line in lines]


class SearchBothSpellings(SearchEnglish):
    """English in which colour and color are one word; queries are treated the same way in _static/search.js."""

    def stem(self, word: str) -> str:
        """Return the stem of a word."""
        return super().stem(word.lower().replace("colour", "color"))


def setup(app: Any) -> None:
    """Connect what Sphinx calls."""
    app.add_search_language(SearchBothSpellings)
    app.connect("autodoc-process-docstring", _plain_code)
