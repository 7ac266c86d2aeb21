"""When a request that changes nothing is sent again to a busy HTTP server."""

from __future__ import annotations

from typing import Optional

from ._deadline import Deadline
from .exceptions import HTTPStatusError, ServerError

__all__ = ["retry_delay"]

#: Pauses before the second and the third attempt, in seconds.
_DELAYS = (0.25, 1.0)


def retry_delay(
    error: Optional[Exception], attempt: int, deadline: Deadline
) -> Optional[float]:
    """Return how long to wait before another attempt; ``None``: do not repeat.

    Only 408, 429 and 5xx say that the same request may succeed a little later, and
    only within the deadline.
    """
    if not isinstance(error, (HTTPStatusError, ServerError)):
        return None
    status = error.status or 0
    if status not in (408, 429) and not 500 <= status < 600:
        return None
    if attempt >= len(_DELAYS):
        return None
    asked = error.retry_after if isinstance(error, HTTPStatusError) else None
    delay = _DELAYS[attempt] if asked is None else asked
    left = deadline.remaining()
    return delay if left is None or delay < left else None
