"""A callback that keeps nothing alive."""

from __future__ import annotations

import types
import weakref
from typing import Union

from ..protocol.jsonrpc import Message
from .base import Note, Unsolicited

__all__ = ["weakly"]


def weakly(on_unsolicited: Unsolicited) -> Unsolicited:
    """Return a callable that keeps no client alive from a transport's thread."""
    if not isinstance(on_unsolicited, types.MethodType):
        return on_unsolicited
    weak = weakref.WeakMethod(on_unsolicited)

    def forward(message: Union[Message, Note]) -> None:
        target = weak()
        if target is not None:
            target(message)

    return forward
