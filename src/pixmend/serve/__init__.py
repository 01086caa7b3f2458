"""Serving: a page to paint the hole in, and an HTTP API.

    request ─Guard─▶ read within limits ─▶ Job, Options ─▶ Queue ─▶ one worker thread ─▶ Completion ─▶ JSON, PNG, events

Only this room knows the web framework; what is completed, and how, it leaves to `pixmend.api`.
"""

from pixmend.serve.app import create_app
from pixmend.serve.catalogue import Catalogue
from pixmend.serve.guard import AccessPolicy
from pixmend.serve.limits import Limits
from pixmend.serve.server import Server, is_loopback, listen

__all__ = ["AccessPolicy", "Catalogue", "Limits", "Server", "create_app", "is_loopback", "listen"]
