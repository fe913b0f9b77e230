"""The verdict on a chain that is followed page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, ChainStatus, verdict
from ..record.errors import AuditStorageError

__all__ = ["verdict_on"]


def verdict_on(
    place: object, heads: Iterable[ChainHead], progress: Callable[[int], None] | None
) -> AuditChainVerificationResult:
    """
    Return the verdict on the chain in *place*.

    Args:
        place: The place that a message about damage begins with.
        heads: Yields the head after every intact page; raises ChainError at damage, and AuditStorageError where the
            chain can't be read.
        progress: Called with how many records were checked so far.
    """
    head = EMPTY
    try:
        for head in heads:
            if progress is not None:
                progress(head.sequence_number)
    except ChainError as damage:
        return verdict(damage, f"{place}: {damage}")
    except AuditStorageError as error:
        return AuditChainVerificationResult(
            valid=False,
            events_checked=head.sequence_number,
            error_message=str(error),
            status=ChainStatus.UNREADABLE,
        )
    return AuditChainVerificationResult(valid=True, events_checked=head.sequence_number)
