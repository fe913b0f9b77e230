"""The Sphinx configuration."""

import sys
from importlib.metadata import version as installed

project = "fapilog"
author = "The fapilog maintainers"
copyright = author
release = version = installed("fapilog")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False

# Every reference to fapilog must lead somewhere. Those to other libraries would need their inventories from the
# network, and the docs are built without one.
_others = sorted(sys.stdlib_module_names | {"anyio", "blinker", "msgspec", "opentelemetry", "prometheus_client"})
nitpick_ignore_regex = [("py:.*", rf"({'|'.join(_others)})(\..*)?")]

html_theme = "furo"
html_title = f"fapilog {release}"
