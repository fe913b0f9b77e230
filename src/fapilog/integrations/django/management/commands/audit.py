"""``manage.py audit``: the commands of ``fapilog`` that look at a trail, for the trail of the site."""

from __future__ import annotations

import argparse
import contextlib
import importlib
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from fapilog._extras import MissingExtraError, needs
from fapilog.integrations.django._settings import trail, trail_options

__all__ = ["Command"]

_COMMANDS = ("show", "tail", "verify", "count")


class Command(BaseCommand):
    """
    Runs ``fapilog show``, ``tail``, ``verify`` or ``count`` for the trail that the setting AUDIT describes.

        manage.py audit show --user alice --since 2h

    Its options, output and exit codes are the same as for ``fapilog``, without DIR: see ``audit show --help``.
    """

    help = "Show, follow, verify or count the events of the audit trail."
    # It looks at the trail alone, also when the database or the code of the site is broken.
    requires_system_checks: Any = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Take a command, and all that follows as its options."""
        parser.add_argument("command", choices=_COMMANDS)
        parser.add_argument("options", nargs=argparse.REMAINDER, help="as of `fapilog COMMAND`; --help lists them")

    def handle(self, *, command: str, options: list[str], **_: object) -> None:
        """
        Run the command.

        Raises:
            CommandError: AUDIT does not describe a trail, or for ``tail`` not one in files; or a library is missing.
            SystemExit: The command ended with another exit code than 0.
        """
        try:
            given = trail_options()
        except ImproperlyConfigured as wrong:
            raise CommandError(str(wrong)) from None
        place = trail.storage_path or given["storage"]
        if command == "tail" and trail.storage_path is None:
            raise CommandError("tail: expected a trail in files; AUDIT has a storage of its own: use show")
        try:
            with needs("cli"):
                app = importlib.import_module("fapilog.cli.commands").app
        except MissingExtraError as missing:
            raise CommandError(str(missing)) from None
        # By the names that the commands have for them.
        defaults = {"place": place, "directory": place, "archive": given.get("archive")}
        # Text for Django's output is written as it is.
        output: Any = self.stdout
        output.ending = ""
        with contextlib.redirect_stdout(output):
            try:
                app([command, *options], prog_name="manage.py audit", default_map={command: defaults})
            except SystemExit as ended:
                if ended.code:
                    raise
