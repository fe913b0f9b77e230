"""The scripted server of `fapilog.testing`, with a secret in its address."""

from fapilog import testing
from fapilog.testing import Answer, Fault, Request

__all__ = ["SECRET_PATH", "Answer", "Fault", "Origin", "Request"]

SECRET_PATH = "/services/T0/B0/s3cr3t-p4th"


class Origin(testing.Origin):
    """As anyone's, with an address that must not be printed."""

    @property
    def url(self) -> str:
        """An address with a secret in its path."""
        return self.base_url + SECRET_PATH
