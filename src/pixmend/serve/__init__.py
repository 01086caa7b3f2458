"""A page for painting holes, and an HTTP API. Only this room knows the web framework.

request ─Guard─▶ form ─▶ Task, CompletionOptions ─▶ Worker's queue ─▶ device thread
        ◀─ JSON, PNG, events ◀─────── Completion ◀─────────────────────────┘
"""

from pixmend.serve.app import create_app
from pixmend.serve.catalogue import Catalogue
from pixmend.serve.security import AccessPolicy, Limits
from pixmend.serve.server import Server, start_log
