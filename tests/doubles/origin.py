"""The scripted server of `fapilog.testing`, with a secret in its address."""

import ssl
import threading

from fapilog import testing
from fapilog.testing import Answer, Fault, Request

__all__ = ["SECRET_PATH", "Answer", "Fault", "Origin", "Request"]

SECRET_PATH = "/services/T0/B0/s3cr3t-p4th"


class Origin(testing.Origin):
    """
    As anyone's, with an address that must not be printed.

    Attributes:
        hangs: Is set when all is sent that is sent before a fault makes the client wait.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.hangs = threading.Event()

    def _pause(self, seconds: float | None = None) -> bool:
        self.hangs.set()
        return super()._pause(seconds)

    @property
    def url(self) -> str:
        """An address with a secret in its path."""
        return self.base_url + SECRET_PATH
