"""The Sphinx configuration."""

import sys
from importlib.metadata import version as installed
from importlib.util import find_spec

project = "fapilog"
author = "The fapilog maintainers"
copyright = author
release = version = installed("fapilog")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# A button on each example copies it, without prompts and output; the docs build without the buttons, too.
if find_spec("sphinx_copybutton"):
    extensions.append("sphinx_copybutton")
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# A single backtick marks code, here as in the docstrings' source.
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Every reference to fapilog must lead somewhere. Those to other libraries would need their inventories from the
# network, and the docs are built without one.
_others = sorted(
    sys.stdlib_module_names
    | {"anyio", "blinker", "boto3", "flask", "httpx2", "msgspec", "opentelemetry", "prometheus_client", "sqlalchemy"}
)
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(_others)})(\..*)?"),
    # A type variable, in the signature of what is decorated.
    ("py:class", r"fapilog\.(record\.privacy\.F|core\._reading\.Item|integrations\.django\._changes\._Model)"),
    ("py:class", r"fapilog\.storage\._anchor\.Anchor"),  # from a storage to another, by `copy`
    ("py:class", r"fapilog\.storage\._files\.places\.(Page|Place)"),  # from a storage to the trail, page by page
    ("py:class", "Path"),  # of pathlib, which the trail imports for type checkers alone
    ("py:exc", "ImproperlyConfigured"),  # of Django
    ("py:class", "WSGI(Application|Environment)"),  # of wsgiref.types
]

html_theme = "furo"
html_static_path = ["_static"]
html_title = f"fapilog {release}"
