"""HTML reports: one style sheet, templates and charts; a page works offline, in light and dark."""

from pixmend.page.charts import Point, Series, line_chart, scatter_chart
from pixmend.page.templates import render
