"""What strangers' bytes are put through: one target a reader, each with the promise that must hold whatever the bytes.

    make fuzz SECONDS=600            all targets in turn, coverage-guided (atheris); findings land in fuzz/findings
    python -m tools.fuzz replay            the kept inputs, once, with the share of lines they reach

A target takes bytes and returns nothing; it raises when a promise is broken. `tests/fuzz/` puts the kept inputs through the targets on
every run of the tests, without atheris.
"""
