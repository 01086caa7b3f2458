"""Stores to test against: a real S3 server on loopback, and file systems that fail now and then, or are slow."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from hashlib import sha1
from itertools import count
from pathlib import Path
from typing import ClassVar

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pixmend.storage import StorePath

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-tests"}


@contextlib.contextmanager
def s3_server():
    """Run moto's server in a process of its own, and give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = "import sys; from moto.server import main; main(sys.argv[1:])"
    server = subprocess.Popen(
        [sys.executable, "-c", command, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/moto-api/"):
                break
            assert server.poll() is None, "the S3 server ended"
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def make_bucket(url, name):
    request = urllib.request.Request(f"{url}/{name}", method="PUT")
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request):
        pass


class Heard:
    """Tells of each read, before a file system does it."""

    def cat_file(self, path, start=None, end=None, **rest):
        self.happen("read")
        return super().cat_file(path, start=start, end=end, **rest)

    def info(self, path, **rest):
        self.happen("info")
        return super().info(path, **rest)


class Counted(Heard, MemoryFileSystem):
    """A file system in memory whose calls are counted, and which writes in pieces, as a disk far away does."""

    protocol = "counted"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    calls = count()
    made = 0

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(
            str(path).replace(f"{cls.protocol}://", "memory://")
        )

    def happen(self, what):
        type(self).made = next(type(self).calls)

    def ls(self, path, detail=True, **rest):
        self.happen("list")
        return super().ls(path, detail=detail, **rest)

    def put_file(self, lpath, rpath, **rest):
        content = Path(lpath).read_bytes()
        MemoryFileSystem.pipe_file(self, rpath, content[: len(content) // 2])
        self.happen("write")  # what fails here leaves half a file
        MemoryFileSystem.pipe_file(self, rpath, content)

    def mv(self, path1, path2, **rest):
        self.happen("move")
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        self.store[path2] = self.store.pop(path1)
        self.store[path2].path = path2

    def pipe_file(self, path, value, mode="overwrite", **rest):
        self.happen("write")
        return super().pipe_file(path, value, mode=mode, **rest)

    def rm_file(self, path):
        self.happen("remove")
        return super().rm_file(path)


def fail(call, what):
    """Raise at 2 % of the calls, one in fifty at places spread by a multiplicative hash."""
    if (call * 2654435761) % 2**32 < 0.02 * 2**32:
        raise (ConnectionResetError, TimeoutError, BlockingIOError)[call % 3](what)


class Flaky(Counted):
    """Fails 2 % of its calls; reads may end early."""

    protocol = "flaky"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    calls = count()
    failures = 0

    def happen(self, what):
        super().happen(what)
        try:
            fail(type(self).made, what)
        except OSError:
            type(self).failures += 1
            raise


class Slow(Counted):
    """Takes 5 ms a call, and knows how many calls ran at a time."""

    protocol = "slow"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    calls = count()
    at_once = 0
    most_at_once = 0
    lock = threading.Lock()

    def happen(self, what):
        super().happen(what)
        with self.lock:
            type(self).at_once += 1
            type(self).most_at_once = max(self.at_once, self.most_at_once)
        time.sleep(0.005)
        with self.lock:
            type(self).at_once -= 1


class FlakyDisk(Heard, LocalFileSystem):
    """Folders of this machine, which all its processes see: 2 % of each process's calls fail, a write having written half."""

    protocol = "flakydisk"
    calls = count(os.getpid())

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix(f"{cls.protocol}://"))

    def happen(self, what):
        fail(next(type(self).calls), what)

    def ls(self, path, detail=False, **rest):
        self.happen("list")
        return LocalFileSystem().ls(self._strip_protocol(path), detail=detail, **rest)  # one call

    def put_file(self, path1, path2, callback=None, **rest):
        content = Path(path1).read_bytes()
        self._write(path2, content[: len(content) // 2])
        self.happen("write")
        self._write(path2, content)

    def pipe_file(self, path, value, mode="overwrite", **rest):
        if mode == "create":
            self.happen("write")
            self._create(Path(self._strip_protocol(path)), value)
            return
        self._write(path, value[: len(value) // 2])
        self.happen("write")
        self._write(path, value)

    def mv(self, path1, path2, **rest):
        self.happen("move")
        Path(self._strip_protocol(path1)).replace(self._strip_protocol(path2))

    def rm_file(self, path):
        self.happen("remove")
        super().rm_file(path)

    def _create(self, path, content):
        """Create a whole file at once, as an object store does."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:
            file.write(content)
            file.flush()
            os.link(file.name, path)

    def _write(self, path, content):
        path = Path(self._strip_protocol(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class SlowDisk(FlakyDisk):
    """The same without failures, 5 ms a call."""

    protocol = "slowdisk"

    def happen(self, what):
        time.sleep(0.005)


class FakeHub(Counted):
    """A hub in memory: user/name is a folder of files, each written in one commit, under its blob's id."""

    protocol = "hf"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    calls = count()
    mv = AbstractFileSystem.mv

    def info(self, path, **rest):
        status = super().info(path, **rest)
        if status["type"] == "file":
            content = self.store[self._strip_protocol(path)].getvalue()
            status["blob_id"] = sha1(content).hexdigest()
            del status["created"]
        return status


for made in (Counted, Flaky, Slow, FlakyDisk, SlowDisk, FakeHub):
    fsspec.register_implementation(made.protocol, made, clobber=True)


def last_of_each(text):
    """Return the last line that begins with each word."""
    lines = {line.split()[0]: line for line in text.splitlines() if " " in line}
    return "".join(f"{line}\n" for line in lines.values())


def fresh(kind):
    """Empty a file system of this module, and return its URL."""
    kind.store.clear()
    kind.pseudo_dirs[:] = [""]
    kind.calls = count()
    return f"{kind.protocol}://"


def upload(folder, path):
    """Copy a local folder to a store."""
    for file in StorePath.of(folder).files():
        (path / file.name).upload(folder / file.name)
    return path


def environment_for(url):
    return {**KEYS, "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
