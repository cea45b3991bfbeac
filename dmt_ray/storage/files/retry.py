"""Which failures of a store are worth another try, how many tries there are, and how long to wait between them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from dmt_ray.errors import DmtError
from dmt_ray.storage.disk_space import FULL_DISK

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Tries of one operation in all.
ATTEMPTS = 5
#: The wait after the first failure; it doubles each time, and half of it is drawn at random.
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 8.0
#: No further try begins when an operation has taken this long.
GIVE_UP_S = 90.0

#: Error codes of S3 and its kin that pass, whatever HTTP status they come with.
_PASSING_CODES = frozenset(
    (
        *("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "OperationAborted"),
        "ConditionalRequestConflict",  # two writers create one file in the same moment
        *("Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded"),
        *("IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),  # damaged on the way
    )
)
_PASSING_STATUSES = frozenset({408, 425, 429})
NOT_IMPLEMENTED = 501
_FINAL = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError),
    *(NotImplementedError, TypeError, ValueError, MemoryError),
)
#: botocore's, by name: it may not be installed.
_FINAL_NAMES = frozenset(
    (
        *("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound"),
        *(
            "ParamValidationError",
            "NoRegionError",
            "InvalidRegionError",
            "SSLError",
            "ClientConnectorCertificateError",
        ),
    )
)


def call(action: Callable[[], T], describe: Callable[[BaseException], str]) -> T:
    """Run an action; try it again, after growing waits, while its failure is one that may pass.

    Waits are exponential with jitter, so that a thousand workers that a store turned away do not come back at once.

    Parameters:
        action: what to do; it may be done several times.
        describe: says what a failure means, for the log.

    Raises:
        Exception: the last failure, as it came.
    """
    started = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except DmtError:
            raise
        except Exception as error:
            wait = min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
            late = time.monotonic() - started + wait > GIVE_UP_S
            if attempt == ATTEMPTS or late or not may_pass(error):
                raise
            logger.warning("%s; try %d of %d follows", describe(error), attempt + 1, ATTEMPTS)
            time.sleep(wait)
    raise AssertionError("unreachable")


def may_pass(error: BaseException) -> bool:
    """Tell whether an error may be gone when asked again.

    Server errors, throttling, timeouts and dropped connections may pass, and so may errors that are unknown. A file
    that is missing or forbidden, a wrong request, and a full local disk stay as they are.
    """
    for cause in chain(error):
        status, code = http_answer(cause)
        if code in _PASSING_CODES:
            return True
        if status is not None:
            return status in _PASSING_STATUSES or (status >= 500 and status != NOT_IMPLEMENTED)
    return not any(map(_is_final, chain(error)))


def _is_final(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in FULL_DISK  # the local disk of a download
    return full or isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def http_answer(error: BaseException) -> tuple[int | None, str | None]:
    """Return the HTTP status and the error code that an exception of botocore, aiohttp or gcsfs carries."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore's ClientError
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return (status if isinstance(status, int) else None), str(answer.get("Error", {}).get("Code"))
    # aiohttp's ClientResponseError has a status, gcsfs's HttpError a code. Not any code will do: that of aiohttp's
    # error for a body that was cut off is 400.
    value = getattr(error, "code" if type(error).__module__.startswith("gcsfs") else "status", None)
    value = int(value) if isinstance(value, str) and value.isdigit() else value
    if isinstance(value, int) and 400 <= value < 600:
        return value, None
    return None, None
