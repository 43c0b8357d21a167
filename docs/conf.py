"""The documentation as a site: sphinx-build -W docs OUT (pip install "lipguard[docs]")."""

project = "lipguard"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
napoleon_use_ivar = True
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]
