"""Local copies of remote files: whole, bounded, pinned, and never from an address that was not meant."""

import hashlib
import ipaddress
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pixmend.errors import InputError, MissingError, StoreError
from pixmend.storage import StorePath, download, local_copy, retry, split_pin, web
from tests.stores import Counted, fresh
from tests.webserver import send, website

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SECRETS = "http://me:s3cr3t@{}/m.safetensors?token=s3cr3t"
pytestmark = pytest.mark.usefixtures("model_cache")


def copy(url, check=lambda path: None):
    url, pin = split_pin(url)
    return local_copy(StorePath.of(url), pin, locate=lambda place: place, check=check)


def copies(model_cache):
    return sorted(path.name for path in model_cache.iterdir() if path.suffix != ".json")


@pytest.fixture
def no_connection(monkeypatch):
    """Fail on any connection but one to the test's own server, and return those tried."""
    tried, connect = [], socket.create_connection

    def create(address, *rest, **options):
        tried.append(address)
        if not ipaddress.ip_address(address[0]).is_loopback:
            raise ConnectionRefusedError
        return connect(address, *rest, **options)

    monkeypatch.setattr(socket, "create_connection", create)
    return tried


def names(monkeypatch, **hosts):
    """Make host names stand for addresses; each look-up takes the next of a list."""
    look_up = socket.getaddrinfo

    def find(host, port, *rest, **options):
        if host not in hosts:
            return look_up(host, port, *rest, **options)
        found = hosts[host]
        address = found.pop(0) if isinstance(found, list) else found
        return look_up(address, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", find)


def test_a_copy_is_the_file_under_its_digest_and_a_pinned_one_needs_no_request(site, model_cache):
    site.give("/m.safetensors", CONTENT)
    path = copy(site.url("/m.safetensors"))
    assert path.read_bytes() == CONTENT
    assert copies(model_cache) == [f"{DIGEST}.safetensors"] == [path.name]
    assert len(site.requests) == 1
    assert copy(site.url("/m.safetensors") + f"#sha256:{DIGEST.upper()}") == path
    assert copy("s3://elsewhere/of/the/same" + f"#sha256:{DIGEST}") == path
    assert len(site.requests) == 1


def test_without_a_pin_an_unchanged_file_is_asked_for_and_not_sent_again(site, model_cache):
    site.give("/m.safetensors", CONTENT)
    url = site.url("/m.safetensors")
    old = copy(url)
    assert copy(url) == old
    assert [headers.get("If-None-Match") is None for _, headers in site.requests] == [True, False]
    site.give("/m.safetensors", b"other")
    new = copy(url)
    assert new.read_bytes() == b"other"
    assert len(copies(model_cache)) == 2
    with pytest.raises(InputError, match=f"not the pinned {'0' * 64}"):
        copy(f"{url}#sha256:{'0' * 64}")


def test_a_date_is_a_version_where_there_is_no_tag(site):
    date = "Sun, 01 Nov 2026 10:00:00 GMT"

    def answer(request):
        same = request.headers["If-Modified-Since"] == date
        send(request, 304 if same else 200, {"Last-Modified": date}, b"" if same else CONTENT)

    site.answers["/m"] = answer
    assert copy(site.url("/m")) == copy(site.url("/m"))
    assert [headers.get("If-Modified-Since") for _, headers in site.requests] == [None, date]


def test_the_copy_stands_where_nobody_answers(model_cache):
    with website() as site:
        site.give("/m.safetensors", CONTENT)
        path = copy(url := site.url("/m.safetensors"))
    assert copy(url) == path
    path.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="cannot be reached") as told:
        copy(url)
    assert "\n" not in str(told.value)


def test_a_damaged_copy_is_fetched_again(site):
    site.give("/m.safetensors", CONTENT)
    for url in (site.url("/m.safetensors"), site.url("/m.safetensors") + f"#sha256:{DIGEST}"):
        copy(url).write_bytes(b"damaged")
        assert copy(url).read_bytes() == CONTENT


def test_a_file_that_is_rejected_is_not_kept(site, model_cache):
    site.give("/m.safetensors", CONTENT)

    def check(path):
        assert path.read_bytes() == CONTENT
        raise InputError("no model")

    for _ in range(2):
        with pytest.raises(InputError, match="no model"):
            copy(site.url("/m.safetensors"), check)
        assert copies(model_cache) == []
    assert len(site.requests) == 2


@pytest.mark.parametrize("pin", ["", "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "?"])
def test_a_pin_that_is_none_is_refused(pin):
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        split_pin(f"https://h/m.safetensors#sha256:{pin}")


def endless(request):
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    while True:
        request.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")


@pytest.mark.parametrize("answer", [(200, {}, bytes(2**20)), endless], ids=["declared", "endless"])
def test_more_than_the_bound_is_refused_and_not_read_on(site, model_cache, monkeypatch, answer):
    monkeypatch.setattr(download, "MAX_BYTES", 2**19)
    site.answers["/m"] = answer
    with pytest.raises(InputError, match="over the limit of 0 MiB"):
        copy(site.url("/m"))
    assert copies(model_cache) == []
    assert len(site.requests) == 1


def test_exactly_the_bound_is_taken(site, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", len(CONTENT))
    site.give("/m", CONTENT)
    assert copy(site.url("/m")).read_bytes() == CONTENT


def cut_chunks(request):
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"1000\r\n" + bytes(100))


@pytest.mark.parametrize(
    "answer", [lambda r: send(r, 200, {}, CONTENT, length=len(CONTENT) + 1), cut_chunks]
)
def test_a_truncated_file_is_asked_for_again_and_never_kept(site, model_cache, answer):
    site.answers["/m"] = answer
    with pytest.raises(StoreError, match="failed 6 times"):
        copy(site.url("/m"))
    assert copies(model_cache) == []
    assert len(site.requests) == 6


def test_a_server_that_is_busy_for_a_while_gives_the_file_in_the_end(site):
    def busy_at_first(request):
        send(request, *((503, {}, b"") if len(site.requests) < 3 else (200, {}, CONTENT)))

    site.answers["/m"] = busy_at_first
    assert copy(site.url("/m")).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, MissingError, "no such file"),
        (410, MissingError, "no such file"),
        (403, StoreError, "no permission"),
        (401, StoreError, "no permission"),
        (418, InputError, "answers 418"),
        (206, InputError, "answers 206"),
        (304, InputError, "answers 304"),
    ],
)
def test_what_a_server_refuses_is_one_line_without_a_secret(site, status, kind, words):
    site.answers["/m.safetensors"] = (status, {}, b"s3cr3t")
    with pytest.raises(kind, match=words) as told:
        copy(SECRETS.format(f"127.0.0.1:{site.port}"))
    assert f"http://127.0.0.1:{site.port}/m.safetensors" in str(told.value)
    assert "s3cr3t" not in str(told.value)
    assert "\n" not in str(told.value)
    assert len(site.requests) == 1


def test_silence_and_a_trickle_have_an_end(site, monkeypatch):
    monkeypatch.setattr(web, "_STALL", 0.1)
    monkeypatch.setattr(retry, "_ATTEMPTS", 2)
    site.answers["/silent"] = lambda request: time.sleep(1)
    with pytest.raises(StoreError, match="failed"):
        copy(site.url("/silent"))
    monkeypatch.setattr(web, "_STALL", 10.0)
    monkeypatch.setattr(web, "_DEADLINE", 0.2)

    def trickle(request):
        send(request, 200, {}, b"", length=1000)
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.02)

    site.answers["/slow"] = trickle
    with pytest.raises(StoreError, match="took over"):
        copy(site.url("/slow"))


PRIVATE = [
    "169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "[::1]", "[fe80::1]",
    "[fd00::1]", "[::ffff:10.0.0.1]", "[::ffff:127.0.0.1]", "127.0.0.2", "localhost", "2130706433",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_redirect_leads_to_a_private_address(site, no_connection, scheme, host):
    site.answers["/m"] = (302, {"Location": f"{scheme}://{host}:{site.port}/latest"}, b"")
    with pytest.raises(InputError, match="redirects to the private address"):
        copy(site.url("/m"))
    assert no_connection == [("127.0.0.1", site.port)]
    assert [path for path, _ in site.requests] == ["/m"]


def test_no_other_host_leads_back_to_the_first_where_that_is_private(site, monkeypatch):
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda place, **rest: connect(("127.0.0.1", place[1]), **rest)
    )
    names(monkeypatch, **{"other.example": "93.184.216.34"})
    site.answers["/m"] = (302, {"Location": site.url("/there", "other.example")}, b"")
    site.answers["/there"] = (302, {"Location": site.url("/secret")}, b"")
    with pytest.raises(InputError, match="redirects to the private address"):
        copy(site.url("/m") + f"#sha256:{DIGEST}")
    assert [path for path, _ in site.requests] == ["/m", "/there"]


def test_the_address_that_was_checked_is_the_one_that_is_asked(site, no_connection, monkeypatch):
    names(monkeypatch, **{"rebound.example": ["93.184.216.34", "127.0.0.1"]})
    monkeypatch.setattr(retry, "_ATTEMPTS", 1)
    site.answers["/m"] = (302, {"Location": f"https://rebound.example:{site.port}/m"}, b"")
    with pytest.raises(StoreError, match="cannot be reached"):
        copy(site.url("/m"))
    assert no_connection[1:] == [("93.184.216.34", site.port)]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://example.com/m", "data:,x", "gopher://127.0.0.1/"]
)
def test_redirects_leave_no_web(site, location):
    site.answers["/m"] = (301, {"Location": location}, b"")
    with pytest.raises(InputError, match="no web address"):
        copy(site.url("/m"))


def test_redirects_are_followed_five_times_and_no_longer(site):
    for number in range(7):
        site.answers[f"/{number}"] = (307, {"Location": f"{number - 1}"}, b"")
    site.give("/0", CONTENT)
    assert copy(site.url("/5")).read_bytes() == CONTENT
    with pytest.raises(InputError, match="more than 5 times"):
        copy(site.url("/6"))


def test_plain_http_is_for_loopback_and_pinned_files(no_connection, monkeypatch):
    names(monkeypatch, **{"plain.example": "93.184.216.34"})
    url = "http://plain.example/m"
    with pytest.raises(InputError, match="https://, or pin the file"):
        copy(url)
    assert no_connection == []
    with pytest.raises(StoreError, match="cannot be reached"):
        copy(f"{url}#sha256:{DIGEST}")
    assert set(no_connection) == {("93.184.216.34", 80)}


def test_a_password_goes_to_its_own_host_alone(site, no_connection, monkeypatch):
    names(monkeypatch, **{"first.example": "127.0.0.1"})
    site.answers["/m.safetensors"] = (302, {"Location": "/there"}, b"")
    site.give("/there", CONTENT)
    copy(SECRETS.format(f"first.example:{site.port}"))
    assert [headers.get("Authorization") for _, headers in site.requests] == [
        "Basic bWU6czNjcjN0"
    ] * 2
    site.requests.clear()
    site.answers["/m.safetensors"] = (302, {"Location": site.url("/there", "first.example")}, b"")
    copy(SECRETS.format(f"first.example:{site.port}"))
    assert [headers.get("Authorization") for _, headers in site.requests] == [
        "Basic bWU6czNjcjN0",
        None,
    ]


@pytest.mark.parametrize("url", ["https://", "http://[::1/m", "http://h:port/m", "http://127.0.0.1/a b"])  # fmt: skip
def test_what_is_no_address_is_told(url):
    with pytest.raises((InputError, StoreError)) as told:
        copy(url)
    assert "\n" not in str(told.value)


def certificate(folder):
    """Write a certificate for 127.0.0.1 that signs itself, and its key; return both."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(
        now + timedelta(days=1)
    )
    signed = builder.add_extension(address, critical=True).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_https_is_taken_from_a_server_whose_certificate_is_trusted(tmp_path, monkeypatch):
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with website(context) as site:
        site.give("/a%20b%C3%A4", CONTENT)
        url = site.url("/a bä", scheme="https")
        with pytest.raises(StoreError, match="certificate is not trusted") as told:
            copy(url)
        assert "\n" not in str(told.value)
        assert site.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert copy(url).read_bytes() == CONTENT
        assert site.requests[0][1]["Host"] == f"127.0.0.1:{site.port}"


def test_many_at_a_time_keep_one_whole_copy(site, model_cache):
    site.give("/m", CONTENT)
    code = (
        "import sys; from pixmend.storage import StorePath, local_copy;"
        "print(local_copy(StorePath.of(sys.argv[1]), '', locate=None, check=lambda path: None))"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code, site.url("/m")], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(lambda _: copy(site.url("/m")), range(24)))
    for other in others:
        paths.add(Path(other.communicate()[0].decode().strip()))
    (path,) = paths
    assert path.read_bytes() == CONTENT
    assert copies(model_cache) == [path.name]


def test_a_store_is_asked_for_its_version_first(model_cache):
    place = StorePath.of(fresh(Counted) + "r/m.safetensors")
    place.write_bytes(CONTENT)
    path = copy("counted://r/m.safetensors")
    assert path.read_bytes() == CONTENT
    calls = Counted.made
    assert copy("counted://r/m.safetensors") == path
    assert Counted.made == calls + 1
    place.write_bytes(CONTENT[::-1])
    assert copy("counted://r/m.safetensors").read_bytes() == CONTENT[::-1]
    place.remove()
    with pytest.raises(MissingError):
        copy("counted://r/m.safetensors")


def test_a_store_without_versions_gives_every_time(monkeypatch):
    place = StorePath.of(fresh(Counted) + "r/m.safetensors")
    info = Counted.info
    monkeypatch.setattr(Counted, "info", lambda *a, **k: {**info(*a, **k), "created": None})
    for content in (b"one", b"two"):
        place.write_bytes(content)
        assert copy("counted://r/m.safetensors").read_bytes() == content


def test_a_store_that_ends_early_is_noticed(monkeypatch, model_cache):
    StorePath.of(fresh(Counted) + "r/m").write_bytes(CONTENT)
    monkeypatch.setattr(Counted, "cat_file", lambda *a, **k: CONTENT[:-1])
    with pytest.raises(StoreError, match="6,999 of 7,000 bytes"):
        copy("counted://r/m")
    assert copies(model_cache) == []


def test_a_local_file_stays_where_it_is_and_its_pin_is_checked(tmp_path, model_cache):
    path = tmp_path / "m"
    path.write_bytes(CONTENT)
    for url in (f"file://{path}", f"file://{path}#sha256:{DIGEST}", f"{path}#sha256:{DIGEST}"):
        assert copy(url) == path
    assert not model_cache.exists()
    with pytest.raises(InputError, match="not the pinned"):
        copy(f"file://{path}#sha256:{'0' * 64}")
