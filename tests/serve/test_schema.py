"""No request, however malformed, causes a server error or leaves memory behind."""

import gc
import os
import random
import socket
from pathlib import Path

import hypothesis
import schemathesis

from pixmend.serve import create_app
from tests.serve.conftest import png

BODIES = int(os.environ.get("PIXMEND_FUZZ", "120"))  # 5,000 for the figure in docs/serve.md
FEW = hypothesis.settings(
    max_examples=4,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
_HEAD = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"


def test_the_document_is_kept_and_no_request_that_it_describes_is_a_server_error(served):
    document = served.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schema = schemathesis.openapi.from_dict(document)
    seen = []
    for result in schema.get_all_operations():
        operation = result.ok()
        strategy = operation.as_strategy()

        @FEW
        @hypothesis.given(case=strategy)
        def try_one(case):
            answer = case.call(base_url=served.url)
            seen.append((answer.status_code, case.operation.path))

        try_one()
    assert len(seen) > 20
    assert not [each for each in seen if each[0] >= 500]


def fuzzed(rng):
    """Return a request with a valid, malformed, truncated or mislabelled form, and whether it ends."""
    image = bytearray(png(16, 16, seed=rng.randrange(50)))
    for _ in range(rng.choice((0, 0, 1, 4, 40))):
        image[rng.randrange(len(image))] = rng.randrange(256)
    if rng.random() < 0.2:
        image = image[: rng.randrange(len(image))]
    fields = {
        "method": rng.choice(("instant",) * 6 + ("default", "é", "\0", "a" * 5000)),
        "mask_spec": rng.choice(
            ("center", "grid:1", "lowres:99999999999", "random:1e-400", "half:\u2028")
        ),
        "candidates": rng.choice(("1", "2", "-1", "1e9", "٣", "NaN", "[]")),
        "seed": rng.choice(("0", str(2**70), "0x1")),
    }
    body = b""
    asked = rng.sample(list(fields.items()), rng.choice((0, 0, 0, 1, 2, 4)))
    if rng.random() < 0.9 and "mask_spec" not in dict(asked):
        asked.append(("mask_spec", "center"))
    for name, value in asked:
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name in rng.choice(([["image"]] * 5) + [["image", "mask"], ["image", "image"], []]):
        file = rng.choice(("a.png", "../../a", "", "a.tif", '"', "\u202e"))
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        body += head.encode() + bytes(image) + b"\r\n"
    body += b"--x--\r\n"
    for _ in range(rng.choice((0, 0, 0, 2, 20))):
        at = rng.randrange(len(body))
        body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    if rng.random() < 0.1:
        body = body[: rng.randrange(len(body))]
    said = rng.choice((len(body),) * 8 + (len(body) // 2, len(body) + 7, -1, 10**12, "x"))
    if rng.random() < 0.2:
        size = rng.choice((b"%x" % len(body), b"ffffffffff", b"-1", b""))
        return (
            _HEAD.encode()
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + size
            + b"\r\n"
            + body
            + b"\r\n0\r\n\r\n",
            False,
        )
    return f"{_HEAD}Content-Length: {said}\r\n\r\n".encode() + body, said == len(body)


def status_of(port, request, ends):
    """Return the status of the response to raw bytes; 0 if the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(request)
            if not ends:  # else the server would wait for the rest until its deadline
                connection.shutdown(socket.SHUT_WR)
            head = connection.recv(64)
        except OSError:
            return 0
    return int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else 0


def resident_memory():
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_fuzzed_bodies_are_answered_and_leave_no_trace_in_memory(served):
    rng, port = random.Random(0), int(served.url.rpartition(":")[2])
    statuses = {}
    for _ in range(BODIES // 2):
        status = status_of(port, *fuzzed(rng))
        statuses[status] = statuses.get(status, 0) + 1
    before = resident_memory()
    for _ in range(BODIES // 2):
        status = status_of(port, *fuzzed(rng))
        statuses[status] = statuses.get(status, 0) + 1
    print(statuses, f"{before / 2**20:.0f} MiB, then {resident_memory() / 2**20:.0f} MiB")
    assert not [status for status in statuses if status >= 500]
    assert {200, 400, 422} <= set(statuses)
    assert resident_memory() < before + 40 * 2**20
    assert served.metric("pixmend_inside") == 0
    assert served.post(method="instant").status_code == 200


def test_the_document_has_examples_and_every_route_of_the_application(served):
    document = served.client.get("/openapi.json").json()
    post = document["paths"]["/v1/completions"]["post"]
    assert post["requestBody"]["content"]["multipart/form-data"]["example"]
    assert post["responses"]["200"]["content"]["application/json"]["example"]
    assert "application/problem+json" in post["responses"]["503"]["content"]
    assert create_app(served.catalogue).openapi() == document
