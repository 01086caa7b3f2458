"""Build the documentation site: `make docs`. No page loads anything from another machine."""

import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import pixmend

project = "pixmend"
author = "The pixmend authors"
project_copyright = f"{author}, Apache-2.0"
version = release = pixmend.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The source folder is the repository, so that links to the pages beside docs/ are checked as well.
root_doc = "docs/index"
include_patterns = ["docs/*.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
html_theme = "furo"
html_title = f"pixmend {version}"
html_math_renderer = "mathml"
html_show_sphinx = html_copy_source = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub names them
autodoc_member_order = "bysource"
default_role = "py:obj"  # what single backquotes in a docstring name
autodoc_typehints = "signature"
# Example: an image, script or font of another machine; a link that a reader follows is none.
LOADED = re.compile(
    r"""(?:src|data|poster)=["']https?:|<link[^>]*href=["']https?:|url\(["']?https?:"""
)


def write_mathml(translator: nodes.NodeVisitor, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which browsers draw without a script."""
    block = isinstance(node, nodes.math_block)
    equation = tex2mathml(node.astext(), as_block=block)
    # Between a function's name and its argument; browsers add no space.
    equation = equation.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em"/>')
    translator.body.append(equation)
    raise nodes.SkipNode


def refuse_network(app: Sphinx, exception: Exception | None) -> None:
    """Fail if a built page loads anything from another machine."""
    if exception is None:
        files = (path for kind in ("html", "css") for path in Path(app.outdir).rglob(f"*.{kind}"))
        for path in files:
            if found := LOADED.search(path.read_text(encoding="utf-8")):
                raise RuntimeError(f"{path}: loads from the network: {found[0]}")


def setup(app: Sphinx) -> None:
    """Add the equations and the check of the pages."""
    app.add_html_math_renderer("mathml", (write_mathml, None), (write_mathml, None))
    app.connect("build-finished", refuse_network)
