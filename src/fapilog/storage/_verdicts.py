"""The verdict on a chain that is followed page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, ChainStatus, verdict
from ..record.errors import AuditStorageError
from ._anchor import Anchor, front_pruned

__all__ = ["unreadable", "verdict_on"]


def verdict_on(
    place: object,
    heads: Iterable[ChainHead],
    progress: Callable[[int], None] | None,
    front: Anchor | None = None,
) -> AuditChainVerificationResult:
    """
    Return the verdict on the chain in *place*.

    Args:
        place: The place that a message about damage begins with.
        heads: Yields the head after every intact page; raises ChainError at damage, and AuditStorageError where the
            chain can't be read.
        progress: Called with how many records were checked so far.
        front: The end of the records that were removed before the first; None if none were.
    """
    start = head = EMPTY if front is None else front.head
    try:
        for head in heads:
            if progress is not None:
                progress(head.sequence_number - start.sequence_number)
    except ChainError as damage:
        return verdict(damage, f"{place}: {damage}", start)
    except AuditStorageError as error:
        return unreadable(error, head.sequence_number - start.sequence_number)
    return AuditChainVerificationResult(
        valid=True,
        events_checked=head.sequence_number - start.sequence_number,
        error_message=None if front is None else front_pruned(front),
        status=ChainStatus.OK if front is None else ChainStatus.FRONT_PRUNED,
        pruned=None if front is None else start,
    )


def unreadable(error: AuditStorageError, checked: int = 0) -> AuditChainVerificationResult:
    """Return the verdict on a chain that can't be read, after so many records were *checked*."""
    return AuditChainVerificationResult(
        valid=False, events_checked=checked, error_message=str(error), status=ChainStatus.UNREADABLE
    )
