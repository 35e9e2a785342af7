"""Sphinx configuration of the API pages, one for each public name."""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from lightning.pytorch.callbacks import Callback
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import softattn
import softattn.plot

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "site"))

for kind in (Callback, Colormap, Figure):
    setattr(softattn.plot, kind.__name__, kind)  # imported only for type checking

import inventories  # noqa: E402
import pages  # noqa: E402

project = "softattn"
copyright = "The softattn authors"
release = version = softattn.__version__
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_immaterial",
]
templates_path = ["templates"]
exclude_patterns = ["templates"]
default_role = "py:obj"
nitpicky = True
# Names in text may be unknown; types in signatures must resolve.
nitpick_ignore_regex = [("py:obj", ".*")]
nitpick_ignore = [("py:param", "ModelT")]  # a variable of types

autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Shape", "notes_style"), ("Attributes", "params_style")]
python_use_unqualified_type_names = True

# Inventories of other projects are stored here, so that a build needs no network.
intersphinx_mapping = inventories.write(HERE / "names.yml", ROOT / "build" / "inventories")

# mkdocs shows the content of the pages; the rest of the theme is not seen.
html_theme = "sphinx_immaterial"
html_copy_source = False
html_theme_options = {"font": False}


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.Node
) -> nodes.Node | None:
    """Resolve public names without the package prefix, as in `SoftAttention`."""
    if node.get("reftype") != "obj" or node["reftarget"] not in softattn.__all__:
        return None
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"softattn.{node['reftarget']}", node, contents
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the handlers to Sphinx's events."""
    app.connect("missing-reference", resolve_public_name)
    app.connect("autodoc-process-docstring", pages.point_to_guides)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
