"""Write and read a file of a hub's stand-in on loopback with the hub's own client; prints what came back.

A program of its own, because the client reads the hub's address when it is imported.
"""

import base64
import json
import os
import sys
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """One repository, user/birds, whose files are in memory."""

    protocol_version = "HTTP/1.1"
    files: dict = {}  # noqa: RUF012 - of the one server

    def do_GET(self):
        path, range_ = self.path.partition("?")[0], self.headers.get("Range")
        if path.startswith("/api/models/user/birds/tree/"):
            return self.send(
                [
                    {"type": "file", "path": name, "size": len(body), "oid": sha1(body).hexdigest()}
                    for name, body in self.files.items()
                ]
            )
        if path.startswith("/api/models/user/birds"):
            return self.send({"id": "user/birds", "sha": COMMIT, "siblings": []})
        body = self.files.get(path.removeprefix("/user/birds/resolve/main/"))
        if body is None:
            return self.send({}, 404, {"X-Error-Code": "RepoNotFound"})
        if range_:
            start, _, stop = range_.removeprefix("bytes=").partition("-")
            body = body[int(start) : int(stop) + 1 if stop else None]
        return self.send(body, 206 if range_ else 200, {"X-Repo-Commit": COMMIT, "ETag": '"a"'})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.startswith("/api/models/user/birds/"):
            return self.send({}, 404, {"X-Error-Code": "RepoNotFound"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self.send({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.files[line["value"]["path"]] = content
        return self.send(
            {"commitUrl": f"{os.environ['HF_ENDPOINT']}/c/{COMMIT}", "commitOid": COMMIT}
        )

    def send(self, content, status=200, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    from pixmend.errors import PixmendError
    from pixmend.storage import StorePath, local_copy

    place, told = StorePath.of("hf://user/birds/model.safetensors"), []
    for content in (b"first", b"second"):
        place.write_bytes(content)
        copy = local_copy(place, "", locate=lambda each: each, check=lambda path: None)
        assert copy.read_bytes() == content
    told.append(sorted(file.name for file in place.parent.files()))
    for ask in (place.parent.parent / "none" / "m", place.parent.parent / "none"):
        for attempt in (ask.read_bytes, lambda ask=ask: (ask / "m").write_bytes(b"x")):
            try:
                attempt()
            except PixmendError as error:
                told.append(f"{error}")
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
