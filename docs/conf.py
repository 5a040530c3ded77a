"""Settings of Sphinx; `make docs` builds docs/_build/html without the network."""

project = "lithos-runner"
author = "the authors of lithos-runner"
copyright = author  # noqa: A001 - the name that Sphinx reads
extensions = ["myst_parser", "sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
