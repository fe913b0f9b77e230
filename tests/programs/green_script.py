"""
A script whose threads gevent has replaced: two greenlets log events that alert, and the trail is started.

    python -m tests.programs.green_script DIRECTORY
"""

from gevent import monkey  # type: ignore[import-untyped]

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402

from fapilog import AuditEventType, AuditTrail  # noqa: E402
from fapilog.testing import RecordingDispatcher  # noqa: E402


def main() -> None:
    """Log from two greenlets; write how many records there are, and why the trail can't be started."""
    trail = AuditTrail(storage_path=sys.argv[1], alert_dispatcher=RecordingDispatcher())
    logging = [gevent.spawn(trail.sync.log_event, AuditEventType.AUTHENTICATION_FAILED, "refused") for _ in range(2)]
    gevent.joinall(logging, raise_error=True)
    sys.stdout.write(f"{trail.sync.verify_chain_from_storage().events_checked} records\n")
    try:
        trail.sync.start()
    except RuntimeError as error:
        sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main()
