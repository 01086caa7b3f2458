"""HTML reports: one style sheet, templates and charts; a page works offline, in light and dark."""

from html import escape
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from pixmend.page.charts import Point, Series, line_chart, scatter_chart

__all__ = [
    "Point",
    "Series",
    "line_chart",
    "page_style",
    "render",
    "scatter_chart",
    "scrolling",
]


def render(template: str, **values: object) -> str:
    """Render a template by its path within the package; values are escaped."""
    environment = Environment(
        loader=PackageLoader("pixmend", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def page_style() -> str:
    """Return the style sheet."""
    return files("pixmend.page").joinpath("style.css").read_text(encoding="utf-8")


def scrolling(name: str, content: str) -> str:
    """Return HTML in a region that scrolls if it is wider than the page, also by keyboard."""
    label = escape(name)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{content}</div>'
