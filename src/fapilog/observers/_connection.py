"""The result of `connect`, in every module here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import blinker

from ..core.alerting import alert_attempted, alert_dispatched, alert_failed, compliance_alert
from ..core.audit import AuditTrail

__all__ = ["Connection"]


class Connection:
    """
    An observer that receives the signals until `disconnect` is called, or the ``with`` block over it ends.

    The signals keep it alive: if you drop this handle, it lasts as long as the process.
    """

    def __init__(
        self,
        sender: AuditTrail | None,
        *,
        announced: Callable[..., None],
        attempted: Callable[..., None],
        finished: Callable[..., None],
        disconnected: Callable[[], None] = lambda: None,
    ) -> None:
        self._undo = ExitStack()
        self._undo.callback(disconnected)
        for signal, receiver in (
            (compliance_alert, announced),
            (alert_attempted, attempted),
            (alert_dispatched, finished),
            (alert_failed, finished),
        ):
            signal.connect(receiver, blinker.ANY if sender is None else sender, weak=False)
            # From any sender: blinker would keep a receiver that is taken from one sender only.
            self._undo.callback(signal.disconnect, receiver)

    def disconnect(self) -> None:
        """Receive nothing from now on. Nothing happens if it is disconnected already."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()
