"""Templates: rendering of the package's HTML, and what is left of pages made of strings."""

import functools
from html import escape
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: object) -> str:
    """Render a template by its path within the package; values are escaped."""
    return _environment().get_template(template).render(values)


def page_style() -> str:
    """Return the style sheet."""
    return files("pixmend.page").joinpath("style.css").read_text(encoding="utf-8")


def scrolling(name: str, content: str) -> str:
    """Return HTML in a region that scrolls if it is wider than the page, also by keyboard."""
    label = escape(name)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{content}</div>'


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pixmend", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
