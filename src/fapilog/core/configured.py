"""The ways to make a trail from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from ..record.later import imported_later
from ..record.privacy import without_frames

if TYPE_CHECKING:
    from pathlib import Path
else:
    Path = imported_later("pathlib", "Path")

__all__ = ["Configured"]


class Configured:
    """The class methods of `AuditTrail` that read a configuration."""

    @classmethod
    @without_frames
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """
        Return the trail that *config* describes, as the page "Configure a trail" of the docs has it.

        Args:
            config: The content of the table ``[tool.fapilog]`` in a configuration file. A dispatcher may be there as an
                object too.

        Raises:
            ConfigError: Something is wrong with it; the message says everything, and where, and has no secret.
            TypeError: It is no mapping.
        """
        # It knows all dispatchers, which are built on this module.
        from ..config import options_from_config  # noqa: PLC0415

        return cls(**options_from_config(config))

    @classmethod
    @without_frames
    def from_toml(cls, path: Path | str) -> Self:
        """
        Return the trail that the table ``[tool.fapilog]`` of a TOML file describes.

        Args:
            path: The file, such as ``pyproject.toml``. Paths in it are relative to the directory of the process.

        Raises:
            ConfigError: Something is wrong with it; the message says everything, and where, and has no secret.
            OSError: It can't be read.
        """
        from ..config import options_from_toml  # noqa: PLC0415

        return cls(**options_from_toml(path))

    @classmethod
    @without_frames
    def from_env(cls) -> Self:
        """
        Return the trail that the environment describes, by FAPILOG_PATH, FAPILOG_SLACK_WEBHOOK_URL and so on.

        Raises:
            ConfigError: Something is wrong with them; the message says everything, and where, and has no secret.
        """
        from ..config import options_from_env  # noqa: PLC0415

        return cls(**options_from_env())
