"""Programs that tests start: each is run by itself, with `python -m tests.programs.NAME`."""
