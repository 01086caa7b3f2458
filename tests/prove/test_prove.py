"""Every section of `make prove`, small: the promises hold, and the section would see it if they did not."""

import os
import signal
from dataclasses import replace
from functools import partial

import pytest

import pixmend
import tools.prove.__main__ as runner
from pixmend import storage
from tools.prove import (
    crash,
    disk,
    hostile,
    machines,
    manners,
    mutate,
    neighbours,
    numerics,
    siege,
    soak,
    underway,
)
from tools.prove.children import attempt, program
from tools.prove.tally import Row, Scale, markdown
from tools.prove.world import make_world, verbs_of
from tools.untrained import untrained

SMALL = Scale(kills=1, lines=1, rooms=2, rounds=1, mutants=60, machines=2, soak_minutes=0.05)
VERBS = ("pack", "train", "complete", "evaluate")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from pixmend.training import export

    before = export.recompute_batchnorm
    yield make_world(tmp_path_factory.mktemp("world"), images=6)
    export.recompute_batchnorm = before


def verb_of(world, name):
    return next(verb for verb in verbs_of(world) if verb.name == name)


def holds(*rows):
    for row in rows:
        assert not row.wrong, row.wrong
        assert row.tried or row.left_out


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_survives_being_killed(world, tmp_path, name):
    verb = verb_of(world, name)
    row = crash.kill_at_random(verb, tmp_path, SMALL.kills, seed=1)
    holds(row, crash.kill_at_lines(verb, tmp_path, SMALL.lines, seed=1))
    assert row.counts["killed"] == SMALL.kills
    assert row.counts["rerun completed"] == row.figures["runs"]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_survives_files_that_cannot_grow(world, tmp_path, name):
    row = disk.file_limit(verb_of(world, name), tmp_path, limits=(100, 1000))
    holds(row)
    assert row.counts["refused"]


def test_a_full_and_a_read_only_disk_are_one_line(world, tmp_path):
    verb = verb_of(world, "complete")
    holds(disk.full_disk(verb, tmp_path, SMALL.rooms), disk.read_only(verb, tmp_path))


@pytest.mark.parametrize("name", ["pack", "complete"])
def test_every_verb_survives_files_that_change(tmp_path, name):
    holds(underway.files_change(name, tmp_path, SMALL.rounds, seed=3))


def test_a_clock_that_goes_back_changes_no_result(world, tmp_path):
    holds(*(underway.clock(verb_of(world, name), tmp_path / name) for name in ("pack", "train")))


def test_hostile_files_are_refused_within_memory(tmp_path):
    """All but the names and links, which have tests of their own."""
    sections = [hostile.bombs_of_images, hostile.zips, hostile.polyglots, hostile.model_files]
    holds(*hostile.tried(tmp_path, [*sections, hostile.models_of_strangers, hostile.records]))


def test_odd_names_are_names_like_others(tmp_path):
    holds(*hostile.tried(tmp_path, [hostile.names]))


def test_links_and_pipes_block_nothing(tmp_path):
    holds(*hostile.tried(tmp_path, [hostile.links]))


def test_damaged_images_open_or_are_refused():
    rows = [mutate.damaged(kind, SMALL.mutants, 1) for kind in mutate.originals()]
    holds(*rows)
    assert all(row.counts["refused"] and row.counts["opened"] for row in rows)


def test_packing_survives_any_order_of_kills_and_changes():
    holds(machines.run_machine(machines.PackMachine, SMALL.machines))


def test_a_run_survives_any_order_of_kills_and_tampering():
    holds(machines.run_machine(machines.RunMachine, SMALL.machines))


def test_ways_of_computing_agree_to_a_grey_level():
    images = numerics.shown_images()[:2]
    holds(numerics.threads(images), numerics.channels_last(images), numerics.denormals(images))


def test_extreme_inputs_get_finite_answers():
    holds(numerics.extreme_inputs("instant"))


def test_a_server_under_mixed_load_gives_right_answers(tmp_path):
    holds(*soak.soak(SMALL, tmp_path))


def test_a_wrong_answer_at_the_deadline_would_be_seen():
    row = Row("soak")
    load = soak._Load(0, os.getpid(), row, 1)
    load.model = pixmend.load("characters", device="cpu")
    body = next(body for body, (_, method) in load.requests.items() if method == "default")
    load.alone = {body: load._completed(body)}
    after_two_steps = load._completed(body, 2)
    assert after_two_steps != load.alone[body]
    assert load._is_right(body, after_two_steps, stopped=True)
    load._judge_cut()
    assert not row.wrong
    assert not load._is_right(body, after_two_steps, stopped=False)
    load._is_right(body, b"of another image", stopped=True)
    load._judge_cut()
    assert row.wrong == ["a wrong answer at the deadline"]
    assert load.compared == 3


def test_users_of_one_folder_touch_and_lose_nothing_of_each_other(world, tmp_path):
    verb = verb_of(world, "complete")
    holds(
        neighbours.odd_files(verb, tmp_path), neighbours.foreign_files(verb, tmp_path / "foreign")
    )
    holds(neighbours.at_once(world, tmp_path / "together", rounds=1))
    holds(neighbours.replaced_models(tmp_path / "models", rounds=1))
    row = neighbours.foreign_cluster(tmp_path / "cluster")
    holds(row)
    assert row.counts["joined"] == 1


def test_lost_lines_and_removed_files_of_others_would_be_seen(world, tmp_path, monkeypatch):
    verb = verb_of(world, "complete")
    monkeypatch.setattr("pixmend.cli.completion_run._latest_lines", lambda text: "")
    row = neighbours.at_once(world, tmp_path, rounds=1)
    assert "0 of 6 results told" in row.wrong
    monkeypatch.setattr(
        "pixmend.storage.local.remove_leftovers",
        lambda folder: [path.unlink() for path in folder.glob("*.tmp")],
    )
    assert "x.tmp is gone" in neighbours.foreign_files(verb, tmp_path / "foreign").wrong


def test_strangers_odd_servers_formulas_and_signals(world, tmp_path):
    holds(manners.odd_servers(), manners.formulas(world, tmp_path / "formulas"))
    row = manners.stopped(verb_of(world, "train"), tmp_path / "stopped", rounds=1)
    holds(row, manners.strangers())
    assert row.counts["stopped and saved"]


def test_a_formula_in_a_table_would_be_seen(world, tmp_path, monkeypatch):
    monkeypatch.setattr("pixmend.evaluation.results._FORMULA", ())
    (told,) = manners.formulas(world, tmp_path).wrong
    assert "a spreadsheet would compute" in told


@pytest.mark.parametrize("attack", ["half a head", "thin images"])
def test_a_server_under_attack_answers_the_others_and_ends(tmp_path, monkeypatch, attack):
    chosen = {name: each for name, each in siege.ATTACKS.items() if attack in name}
    assert len(chosen) == 1
    monkeypatch.setattr(siege, "ATTACKS", chosen)
    holds(*siege.siege(SMALL, tmp_path))


def test_a_server_that_answers_nobody_and_does_not_end_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(siege, "DEADLINE", 1.0)
    monkeypatch.setattr(siege, "DRAIN", 1.0)
    monkeypatch.setattr(siege, "LATE", 1.0)
    stop = {"stopped": lambda target, held: target.process.send_signal(signal.SIGSTOP)}
    monkeypatch.setattr(siege, "ATTACKS", stop)
    (row,) = siege.siege(SMALL, tmp_path)
    assert any("/healthz" in each for each in row.wrong)
    assert any("SIGTERM is ignored" in each for each in row.wrong)


def test_half_written_files_lost_results_and_leftovers_would_be_seen(world, tmp_path):
    verb = verb_of(world, "complete")
    attempt(verb.command(tmp_path / "out"))
    done, whole = verb.done(tmp_path / "out"), verb.result(tmp_path / "out")
    (tmp_path / "out" / ".a.png.12345678.pixmend.tmp").write_text("")
    row = Row("a leftover")
    crash.compare(verb, tmp_path / "out", whole, row)
    assert len(row.wrong) == 2
    assert crash.look(verb, tmp_path / "out", done | {"another"}, row) == done
    assert "lost" in row.wrong[-1]
    picture = next(tmp_path.glob("out/*/000.png"))
    os.truncate(picture, 40)
    crash.look(verb, tmp_path / "out", done, row)
    assert "half-written" in row.wrong[-1]


def test_a_write_that_is_not_atomic_would_be_seen(world, tmp_path, monkeypatch):
    def careless(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content[:10])
            file.flush()
            os.kill(os.getpid(), 9)

    verb = verb_of(world, "evaluate")
    monkeypatch.setattr("pixmend.evaluation.results.write_bytes", careless)
    attempt(verb.command(tmp_path / "out"))
    row = Row("careless")
    crash.look(verb, tmp_path / "out", frozenset(), row)
    assert "half-written" in row.wrong[0]


def test_a_child_is_measured_starved_and_told_apart():
    ended = attempt(lambda: bytearray(200 * 2**20))
    assert ended.kind == "done"
    assert 190 < ended.peak < 260
    starved = attempt(lambda: bytearray(200 * 2**20), memory_mib=50)
    assert starved.kind == "bug"
    assert "MemoryError" in starved.said
    assert attempt(partial(os.kill, 0, 0)).kind == "done"
    assert attempt(lambda: os.kill(os.getpid(), 15)).kind == "crashed"
    assert attempt(program("info", "no-such-model")).is_clean
    assert not attempt(lambda: 1 / 0).is_clean


def test_a_broken_promise_is_in_the_table_the_json_and_the_exit_code(tmp_path, monkeypatch, capsys):
    def broken(scale, folder):
        row = Row("a promise", 1)
        row.expect(False, "it did not hold")
        return [row]

    monkeypatch.setattr(runner, "SECTIONS", {"crash": broken})
    out = tmp_path / "prove.json"
    monkeypatch.setattr("sys.argv", ["prove", "--profile", "tiny", "--json", str(out)])
    assert runner.main() == 1
    assert "1 broken promises" in capsys.readouterr().out
    assert '"it did not hold"' in out.read_text()
    assert "left out: no GPU" in markdown({"numerics": [Row("x", left_out="no GPU")]})


def test_the_profiles_are_what_the_issue_asks_for():
    full = runner.PROFILES["full"]
    assert full.kills * len(VERBS) >= 200
    assert full.mutants >= 10_000
    assert full.soak_minutes >= 30
    assert replace(full, seed=1) != full


def test_the_world_has_a_model_that_is_loaded_as_it_was_saved(world):
    from pixmend.models import load_model

    assert load_model(world.model).settings == untrained().settings
    assert storage.sha256_of(world.model)
