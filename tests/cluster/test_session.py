"""Errors without a cluster, and the worker contract."""

import os
import socket
import sys
from dataclasses import replace

import pytest

from pixmend.cluster import session
from pixmend.cluster.session import WorkerContract, connect
from pixmend.errors import ClusterError


def test_without_ray_the_extra_is_named(monkeypatch, program, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = program("pack", tmp_path, tmp_path / "out", "--cluster", "auto")
    assert ran.code == 2
    assert "Ray is not installed; pip install 'pixmend[cluster]'" in ran.err


@pytest.mark.parametrize("address", ["ray://127.0.0.1:{}", "127.0.0.1:{}", "ray://no host:{}"])
def test_a_cluster_that_is_not_there_is_told_at_once(address, monkeypatch):
    # Tests before this one may have left the process in a cluster, which would do.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(ClusterError, match=r"cannot be reached: .*; give auto, ray://HOST"),
        connect(address.format(port)),
    ):
        pass


def test_equal_versions_are_accepted_and_each_other_one_is_named():
    here = WorkerContract.here()
    here.accept()
    other = replace(here, versions={**here.versions, "python": "2.7", "numpy": "0.9"})
    with pytest.raises(
        ClusterError, match=r"python is .* there and 2\.7 here, numpy is .* there and 0\.9 here"
    ):
        other.accept()


def test_an_animation_and_a_server_are_refused_beside_a_cluster(program, tmp_path):
    for more in (("--animation", tmp_path / "a.gif"), ("--server", "http://127.0.0.1:1")):
        ran = program(
            "complete",
            "--mask",
            "center",
            "characters",
            tmp_path,
            "--out",
            tmp_path / "o",
            "--cluster",
            "auto",
            *more,
        )
        assert ran.code == 2
        assert f"error: {more[0]}: " in ran.err


@pytest.fixture
def listening(monkeypatch, tmp_path):
    """Return the file of a cluster's address, at which something listens."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir(mode=0o777)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        path.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        path.chmod(0o644)
        yield path


def test_auto_joins_the_cluster_of_the_user(listening):
    assert session._own_cluster() == listening.read_text().strip()


@pytest.mark.parametrize("mode", [0o646, 0o666])
def test_auto_joins_no_cluster_that_others_may_name(listening, mode):
    listening.chmod(mode)
    assert session._own_cluster() is None


def test_auto_joins_no_cluster_of_another_user(listening, monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: listening.stat().st_uid + 1)
    assert session._own_cluster() is None


def test_auto_takes_no_link_and_no_pipe_for_the_address_of_a_cluster(listening):
    listening.rename(listening.with_name("elsewhere"))
    listening.symlink_to("elsewhere")
    assert session._own_cluster() is None
    listening.unlink()
    os.mkfifo(listening)
    assert session._own_cluster() is None
