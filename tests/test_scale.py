"""What scales is reckoned rightly: failures against a closed form, and costs against sums by hand."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def programs():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("scale"), importlib.import_module("stragglers")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def costs(programs):
    return programs[0].read_costs(sorted(BENCHMARKS.glob("costs/*.json")))


def even(stragglers, count, **more):
    calm = {"spread": 0.0, "stragglers": 0.0, "driver_failures": math.inf, "restart": 0.0}
    return stragglers.Crowd(count, **{**calm, "failures": math.inf, **more})


def test_without_failures_a_job_takes_its_work_by_workers_and_loses_nothing(programs):
    _, stragglers = programs
    met = stragglers.simulate(120, 10.0, even(stragglers, 8))
    assert (met.seconds, met.worked, met.wasted, met.idle) == (150.0, 1200.0, 0.0, 0.0)
    # 121 shards: the last keeps one worker busy and seven waiting.
    met = stragglers.simulate(121, 10.0, even(stragglers, 8))
    assert (met.seconds, met.worked, met.idle) == (160.0, 1210.0, 70.0)


@pytest.mark.parametrize("part", [0.03, 0.3, 1.0])
def test_what_failures_waste_is_what_the_formula_says(programs, part):
    _, stragglers = programs
    met = stragglers.simulate(20_000, 100.0, even(stragglers, 50, failures=100.0 / part))
    assert met.worked - met.wasted == pytest.approx(2_000_000)
    assert met.share == pytest.approx(stragglers.expected_waste(100.0, 100.0 / part), rel=0.1)


def test_a_drivers_failure_costs_the_shards_at_hand_and_no_other(programs):
    _, stragglers = programs
    crowd = even(stragglers, 20, driver_failures=500.0, restart=5.0)
    met = stragglers.simulate(2000, 10.0, crowd)
    assert met.driver_failures > 0
    assert met.worked - met.wasted == pytest.approx(20_000)
    assert met.wasted <= met.driver_failures * 20 * 10.0


def test_a_simulation_is_a_function_of_its_seed(programs):
    _, stragglers = programs
    crowd = stragglers.Crowd(10, failures=300.0, driver_failures=900.0)
    first, again, other = (stragglers.simulate(300, 20.0, crowd, seed=n) for n in (1, 1, 2))
    assert first == again != other


def test_youngs_interval_is_the_best(programs):
    _, stragglers = programs
    best = stragglers.interval(2.0, 36_000.0)
    found = min(np.arange(10, 3000), key=lambda each: stragglers.lost(each, 2.0, 60.0, 36_000.0))
    assert found == pytest.approx(best, rel=0.05)


def test_stages_are_sums_over_images_and_name_their_largest_term(programs, costs):
    scale, _ = programs
    held = {**costs, "read_requests_rate": math.inf, "list_requests_seconds": 0.0}
    stage = scale.packing(held, 10**6, 64)
    assert stage.seconds == pytest.approx(10**6 * costs["pack_seconds"] / 64)
    assert stage.bytes == 10**6 * (costs["record_bytes"] + costs["note_bytes"])
    assert stage.bottlenecks.startswith("decoding")
    slow = scale.packing({**held, "host_bandwidth": 1e6}, 10**6, 64)
    assert slow.bottlenecks.startswith("network")
    alone, many = (scale.training(costs, 10**6, gpus) for gpus in (1, 64))
    assert many.terms["steps"] > alone.terms["steps"]
    assert many.dollars > 64 * alone.dollars


def test_every_cost_says_where_it_is_from():
    for path in BENCHMARKS.glob("costs/*.json"):
        for name, fact in json.loads(path.read_text()).items():
            assert fact["value"] > 0, name
            assert fact["unit"], name
            assert fact["source"].startswith("assumed") == (path.stem == "assumed"), name
