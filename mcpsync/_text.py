"""Clean text that comes from outside before it enters a log, a repr or a message.

Whatever a server says may hold terminal escapes, line breaks that forge a second
log line, bidirectional overrides, a megabyte of padding, or a secret that we gave
to it. Every such text passes :func:`clean` on its way to a person.
"""

from __future__ import annotations

import re
from typing import Iterable, List

__all__ = ["clean", "mask", "CLIP"]

#: Characters of outside text that an exception or a log line shows at most.
CLIP = 500

#: Shorter values are too common to mask: every "1" in a message would vanish.
_SHORTEST_SECRET = 6

#: Characters beyond the limit that are looked at, because masking shortens.
_MARGIN = 4096

#: No credential that we do not know, but recognize, is longer.
_TOKEN = 2048

# C0 and C1 controls, zero-width and bidirectional formatting characters, line and
# paragraph separators, lone surrogates, private use, tags. Tab stays out as well:
# it moves columns in a table.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u070f\u180e\u200b-\u200f\u2028-\u202f"
    "\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff\ue000-\uf8ff"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)

_BEARER = re.compile(r"\b(bearer|basic|dpop)\s+[A-Za-z0-9\-._~+/]{8,}=*", re.IGNORECASE)


def _escape(match: "re.Match[str]") -> str:
    character = match.group()
    if character == "\n":
        return "\\n"
    if character == "\r":
        return "\\r"
    if character == "\t":
        return "\\t"
    code = ord(character)
    if code <= 0xFF:
        return "\\x%02x" % code
    return "\\u%04x" % code if code <= 0xFFFF else "\\U%08x" % code


def mask(text: str, secrets: Iterable[str]) -> str:
    """Replace each of `secrets`, and anything that looks like a credential."""
    for secret in sorted(_maskable(secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _BEARER.sub(r"\1 ***", text)


def _maskable(secrets: Iterable[str]) -> List[str]:
    return [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]


def clean(text: object, limit: int = CLIP, secrets: Iterable[str] = ()) -> str:
    """Return outside text in a form that is safe to show to a person.

    Secrets are masked first, then the text is clipped to `limit` characters, then
    control and bidirectional characters are written as escapes, so that a secret
    can neither be cut in two nor hidden behind an escape.
    """
    shown = text if isinstance(text, str) else str(text)
    known = _maskable(secrets)
    longest = max(map(len, known), default=0)
    # Masking 16 MiB to show 500 characters would be wasteful. Beyond the window's end
    # a secret may begin inside it, so that its last part is not shown.
    window = limit + _MARGIN + longest
    clipped = len(shown) > window
    shown = mask(shown[:window], known)
    if clipped:
        shown = shown[: max(0, len(shown) - max(longest, _TOKEN))]
    if clipped or len(shown) > limit:
        shown = shown[:limit] + "…"
    return _UNSAFE.sub(_escape, shown)
