"""The formats that a form may ask for: email, uri, date and date-time.

What is refused here is refused by every server; in doubt a text passes.

Specification: 2026-07-28, client/elicitation.
"""

from __future__ import annotations

import datetime
import re
from typing import Callable, Dict

__all__ = ["FORMATS"]

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"

# RFC 5321, section 4.1.2: a dot-string or a quoted string, then a domain or an address.
_EMAIL = re.compile(
    r"(?:[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*"
    r'|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*")'
    r"@(?:" + _LABEL + r"(?:\." + _LABEL + r")*|\[[0-9A-Za-z:.]+\])",
    re.ASCII,
)

# RFC 3986, section 3: a scheme, and none but the characters that URIs are made of.
_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*",
    re.ASCII,
)
_URI_WITHOUT_HOST = re.compile(r"https?:(?!//[^/?#])", re.IGNORECASE)

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

# RFC 3339, section 5.6. Second 60 is a leap second.
_TIME = re.compile(
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def _is_email(text: str) -> bool:
    return len(text) <= 320 and _EMAIL.fullmatch(text) is not None


def _is_uri(text: str) -> bool:
    return _URI.fullmatch(text) is not None and not _URI_WITHOUT_HOST.match(text)


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_date_time(text: str) -> bool:
    date, separator, time = text[:10], text[10:11], text[11:]
    return separator in ("T", "t") and _is_date(date) and bool(_TIME.fullmatch(time))


#: The test for each format.
FORMATS: Dict[str, Callable[[str], bool]] = {
    "date": _is_date,
    "date-time": _is_date_time,
    "email": _is_email,
    "uri": _is_uri,
}
