"""``hf://`` with the hub's own client, where it is installed, against a stand-in on loopback."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("huggingface_hub")


def test_a_hub_takes_and_gives_files_and_a_missing_repository_is_told(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "XDG_CACHE_HOME": f"{tmp_path}/cache", "HF_HOME": f"{tmp_path}/hf"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.storage.hub_check"],
        env={**environment, "HF_TOKEN": "hf_s3cr3t", "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    files, *errors = json.loads(ran.stdout)
    assert files == ["model.safetensors"]
    assert len(errors) == 4
    for error in errors:
        assert error.startswith("hf://user/none")
        assert "no such repository" in error
        assert "\n" not in error
        assert "s3cr3t" not in error
