"""What the reports share: one style, and charts; each page stands alone, in light and dark."""

from html import escape
from importlib.resources import files

from pixmend.page.charts import Point, Series, line_chart, scatter_chart

__all__ = ["Point", "Series", "line_chart", "page_style", "scatter_chart", "scrolling"]


def page_style() -> str:
    """Return the style sheet, to stand within a page's ``<style>``."""
    return files("pixmend.page").joinpath("style.css").read_text(encoding="utf-8")


def scrolling(name: str, content: str) -> str:
    """Return HTML that scrolls by itself where it is wider than the page, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{content}</div>'
