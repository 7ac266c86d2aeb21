"""What a client remembers of the tools it has listed.

Compiled output schemas, and which parameters go into HTTP headers. Both outlive their
listing's time to live: headers are built from the newest schema there is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Union

from ._lifecycle import Enrolled, enrol
from .exceptions import SchemaRefused
from .protocol.headers import (
    InvalidAnnotation,
    ParameterHeader,
    mirror_parameters,
    parameter_headers,
)
from .protocol.schema import Validator, compile_schema
from .types import Tool

__all__ = ["KnownTools", "usable_tools"]


@dataclass
class _Known:
    tool: Tool
    headers: Tuple[ParameterHeader, ...]
    validator: Union[None, Validator, SchemaRefused] = None
    compiled: bool = False


class KnownTools(Enrolled):
    """The tools that one client has listed. Safe for any number of threads."""

    def __init__(self) -> None:
        self._tools: Dict[str, _Known] = {}
        self.after_fork_in_child()
        enrol(self)

    def after_fork_in_child(self) -> None:
        # Guards the table.
        # Never while held: compiling a schema, I/O.
        # Taken by whoever lists or calls tools.
        self._lock = threading.Lock()

    def remember(
        self, tools: Iterable[Tool], headers: Mapping[str, Tuple[ParameterHeader, ...]]
    ) -> None:
        """Take in a listing, or one page of it."""
        known = {tool.name: _Known(tool, headers.get(tool.name, ())) for tool in tools}
        with self._lock:
            for name, fresh in known.items():
                before = self._tools.get(name)
                if before is None or before.tool != fresh.tool:
                    self._tools[name] = fresh

    def get(self, name: str) -> Optional[Tool]:
        """Return a tool that was listed."""
        known = self._find(name)
        return None if known is None else known.tool

    def mirrored(self, name: str, arguments: Mapping[str, Any]) -> Dict[str, str]:
        """Return the headers that mirror a call's arguments."""
        known = self._find(name)
        if known is None or not known.headers:
            return {}
        return mirror_parameters(known.headers, arguments)

    def validator(self, name: str) -> Optional[Validator]:
        """Return the compiled output schema of a tool, if it was listed with one.

        Raises:
            SchemaRefused: the schema cannot be used.
        """
        known = self._find(name)
        if known is None or known.tool.output_schema is None:
            return None
        if not known.compiled:
            # Two threads may compile the same schema: wasteful, and harmless.
            known.validator = _compile(known.tool.output_schema)
            known.compiled = True
        if isinstance(known.validator, SchemaRefused):
            raise SchemaRefused(known.validator.message)
        return known.validator

    def _find(self, name: str) -> Optional[_Known]:
        with self._lock:
            return self._tools.get(name)


def _compile(schema: Any) -> Union[Validator, SchemaRefused]:
    try:
        return compile_schema(schema)
    except SchemaRefused as error:
        return error


def usable_tools(
    tools: Iterable[Tool],
) -> Tuple[List[Tool], Dict[str, Tuple[ParameterHeader, ...]], List[Tuple[Tool, str]]]:
    """Split a listing by the annotations that HTTP needs.

    Returns:
        The good tools in order, the header parameters of those that have some, and
        the tools with an invalid annotation, with the reason.
    """
    good: List[Tool] = []
    headers: Dict[str, Tuple[ParameterHeader, ...]] = {}
    refused: List[Tuple[Tool, str]] = []
    for tool in tools:
        try:
            mirrored = parameter_headers(tool.input_schema)
        except InvalidAnnotation as error:
            refused.append((tool, str(error)))
            continue
        good.append(tool)
        if mirrored:
            headers[tool.name] = mirrored
    return good, headers, refused
