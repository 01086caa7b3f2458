"""A web server on loopback that answers as a test tells it to."""

import contextlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Answers by path; each is (status, headers, body), or a function of the request handler."""

    port: int = 0
    answers: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)  # (path, headers)

    def url(self, path, host="127.0.0.1", scheme="http"):
        return f"{scheme}://{host}:{self.port}{path}"

    def give(self, path, content, **headers):
        """Answer with bytes, an ETag, and 304 to who has that version."""
        tag = f'"{hash(content)}"'

        def answer(request):
            same = request.headers["If-None-Match"] == tag
            send(request, 304 if same else 200, {"ETag": tag, **headers}, b"" if same else content)

        self.answers[path] = answer


def send(request, status, headers, body, *, length=None):
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    if status != 304:
        request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


@contextlib.contextmanager
def website(context=None):
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.requests.append((self.path, dict(self.headers)))
            answer = site.answers.get(self.path.partition("?")[0], (404, {}, b""))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                answer(self) if callable(answer) else send(self, *answer)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
