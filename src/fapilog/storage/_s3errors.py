"""The errors of S3, and the exceptions of boto3 when there is no answer, as `AuditStorageError`."""

from __future__ import annotations

from typing import Final

from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnectionError

from ..record.errors import AuditStorageError

__all__ = ["RefusedError", "failure", "is_passing"]

# 409: another writer was at work on this name. https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
# 429, and 5xx with "SlowDown" among them: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_PASSING: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
# With the status 400: the body did not come whole.
_PASSING_CODES: Final = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"})

_WORDS: Final = {
    "403": "access is denied: see what the credentials may do, and the policy of the bucket",
    "404": "there is no such object",
    "AccessDenied": "access is denied: see what the credentials may do, and the policy of the bucket",
    "AuthorizationHeaderMalformed": "the bucket is in another region; give that",
    "ExpiredToken": "the credentials have expired",
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html#API_GetObject_Errors
    "InvalidObjectState": "a lifecycle rule has moved the object to a class such as Glacier: restore it first",
    "InvalidAccessKeyId": "S3 does not know these credentials",
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "PermanentRedirect": "the bucket is in another region; give that",
    "RequestTimeTooSkewed": "the clock of this machine is wrong by more than S3 allows, 15 minutes; set it right",
    "SignatureDoesNotMatch": "the credentials are wrong",
}

# By the exceptions of boto3, and of Python in boto3: https://github.com/boto/botocore/blob/develop/botocore/exceptions.py
_HINTS: Final = {
    "ConnectTimeoutError": "it can't be reached: see the endpoint, the region and the network",
    "EndpointConnectionError": "it can't be reached: see the endpoint, the region and the network",
    "InvalidRegionError": "the region is no name of one",
    "NoCredentialsError": "there are no credentials: see where boto3 looks for them",
    "PartialCredentialsError": "the credentials are incomplete: see where boto3 looks for them",
    "ProfileNotFound": "boto3 knows no profile of the name in AWS_PROFILE",
    "ProxyConnectionError": "the proxy that the environment names can't be reached",
    "RecursionError": "the endpoint redirects without an end; give the address that it redirects to",
    "SSLError": "the certificate of the endpoint is not trusted",
    "ValueError": "the answer is none of S3: see the endpoint",
}


class RefusedError(AuditStorageError):
    """
    Raised when S3 has refused a request.

    Args:
        place: The address, with which the message begins.
        error: The exception of boto3. Only the code of its text is repeated.

    Attributes:
        status: The status of the answer.
    """

    def __init__(self, place: str, error: ClientError) -> None:
        self.status, code = _answer(error)
        words = _WORDS.get(code, "S3 refuses it")
        if "objectlock" in str(error).lower().replace(" ", ""):
            # For such a bucket S3 says InvalidRequest, as for many other errors.
            words = "the bucket has no Object Lock: turn it on, or take another one"
        super().__init__(f"{place}: {words} ({code}, HTTP {self.status})")


def is_passing(error: ClientError | BotoCoreError) -> bool:
    """Return whether the same request may succeed a little later."""
    if isinstance(error, ClientError):
        status, code = _answer(error)
        return status in _PASSING or code in _PASSING_CODES
    return isinstance(error, HTTPClientError | NoConnectionError | IncompleteReadError | FlexibleChecksumError)


def failure(place: str, error: Exception) -> AuditStorageError:
    """
    Return the error to raise in place of *error*, with a message that may be printed.

    The message leaves out the text of *error*, which has the address, and so perhaps a password.
    """
    if isinstance(error, ClientError):
        return RefusedError(place, error)
    if isinstance(error, FlexibleChecksumError | IncompleteReadError):
        words = "the download differs from the object: it was cut or changed on its way"
    else:
        hint = _HINTS.get(type(error).__name__)
        words = "S3 could not be asked" if hint is None else f"S3 could not be asked: {hint}"
    return AuditStorageError(f"{place}: {words} ({type(error).__name__})")


def _answer(error: ClientError) -> tuple[int, str]:
    return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
