"""Runs the `fapilog` command, with a demonstration that makes all its requests, however long a busy machine takes."""

from contextlib import suppress

from fapilog.cli import main

if __name__ == "__main__":
    with suppress(ImportError):  # of an extra
        from fapilog.cli import demo

        demo._LONGEST_DAY = 600.0  # type: ignore[misc]
    main()
