"""The fuzzers' targets hold for their seeds, for what hunts have kept, and for bytes at random; `make fuzz` looks for more."""

import random

import pytest

from tools.fuzz.targets import CORPORA, TARGETS, kept_inputs


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_inputs_break_no_promise(name):
    for content in kept_inputs(name):
        TARGETS[name].check(content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_bytes_changed_at_random_break_none_either(name):
    generator = random.Random(name)
    inputs = kept_inputs(name)
    for _ in range(20):
        content = bytearray(generator.choice(inputs))
        for _ in range(generator.randint(1, 4)):
            if content:
                content[generator.randrange(len(content))] = generator.randrange(256)
        TARGETS[name].check(bytes(content[: generator.randint(0, 2 * len(content))]))


def test_every_corpus_has_a_target_and_is_small():
    for folder in CORPORA.iterdir():
        assert folder.name in TARGETS
        assert sum(path.stat().st_size for path in folder.iterdir()) < 64 * 1024
