"""What the reports share: one style, and charts; each page stands alone, in light and dark."""

from importlib.resources import files

from pixmend.page.charts import Point, Series, line_chart, scatter_chart

__all__ = ["Point", "Series", "line_chart", "page_style", "scatter_chart"]


def page_style() -> str:
    """Return the style sheet, to stand within a page's ``<style>``."""
    return files("pixmend.page").joinpath("style.css").read_text(encoding="utf-8")
