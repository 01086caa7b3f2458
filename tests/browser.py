"""A real browser for what people look at: pages of the server, and reports."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH

_CHROMIUM = shutil.which("chromium")
_FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"


@contextmanager
def chromium():
    if _CHROMIUM is None:
        pytest.skip("no Chromium: no page is tested (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM, headless=True, args=_FLAGS.split(), env={**os.environ}
        )
        yield browser
        browser.close()


def watched(context, faults, *, allowed):
    """Return a new page; what its console complains of, and what it asks of others than ``allowed`` names, is added to ``faults``."""
    page = context.new_page()
    page.set_default_timeout(90_000)  # a machine may be busy
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: _is_fault(said) and faults.append(said.text))
    page.on(
        "request",
        lambda request: (
            request.url.startswith(allowed) or faults.append(f"asks elsewhere: {request.url}")
        ),
    )
    return page


def _is_fault(said):
    """Tell a complaint of the console from its notes on answers that refuse, which the page tells of itself."""
    return said.type == "error" and "status of 4" not in said.text


def audit(page):
    """Fail on what axe-core finds against WCAG 2.1 AA."""
    # By the debugger's own door: the page's policy lets no script in.
    page.evaluate(Path(AXE_FILE_PATH).read_text())
    found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
    told = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]
    assert not told, told
