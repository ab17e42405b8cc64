"""How Sphinx builds the documentation: ``sphinx-build -W --keep-going -b html docs build/docs``."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from from_code import fill  # the folder is no package

project = "deploykit"
version = release = version_of("deploy-kit")
copyright = "Apache-2.0"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["build"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

default_role = "code"
smartquotes = False  # they would join the dashes of --options
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"exclude-members": "model_config, model_post_init"}
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"deploykit {version}"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

FROM_CODE = ("reference/cli", "targets/")
"""The pages with parts that are written from the code, which may have changed without them."""


def setup(app: Sphinx) -> None:
    """Put what is written from the code into its pages."""
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, fill(source[0])))
    app.connect("env-get-outdated", lambda app, env, *changes: [n for n in env.found_docs if n.startswith(FROM_CODE)])
