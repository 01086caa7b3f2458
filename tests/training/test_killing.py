"""SIGKILL at random moments and at the lines of a write; PIXMEND_KILLS sets how many random ones."""

import json
import os

from tests.forked import forked
from tests.training.killing import main
from tests.training.test_run import assert_same_end


def test_killed_at_any_moment_a_run_resumes_to_the_weights_of_an_uninterrupted_one(
    record_folder, tmp_path
):
    kills = os.environ.get("PIXMEND_KILLS", "20")
    done = forked(lambda: main(record_folder, tmp_path, int(kills)))
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == int(kills)
    for run in tmp_path.iterdir():
        assert_same_end(run, tmp_path / "whole")
        assert not list(run.rglob("*.tmp"))
        for what in ("samples.gif", "samples/step-00000012.png"):
            assert (run / what).read_bytes() == (tmp_path / "whole" / what).read_bytes()
        lines = (run / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))
