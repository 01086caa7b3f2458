"""Fuzzing of every reader of untrusted bytes: one target per reader, with a promise that must hold.

    make fuzz SECONDS=600        all targets in turn under atheris; findings land in fuzz/findings
    python -m tools.fuzz replay  the kept inputs, once, with their line coverage

A target takes bytes and returns nothing; it raises when a promise is broken. `tests/fuzz/` runs the
kept inputs through the targets on every test run, without atheris.
"""
