"""The one function that most programs need."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence, Union

from ._deadline import Timeout
from ._dispatch import OnLog, OnNotification
from ._questions import OnElicitation, OnSampling, Roots
from ._targets import Target
from .client import Client
from .transports.base import Limits

__all__ = ["connect"]


def connect(
    target: Target,
    *,
    name: Optional[str] = None,
    timeout: Union[None, float, Timeout] = None,
    startup_timeout: float = 30.0,
    protocol: str = "auto",
    auth: Any = None,
    headers: Optional[Mapping[str, str]] = None,
    env: Optional[Mapping[str, str]] = None,
    cwd: Any = None,
    on_elicitation: Optional[OnElicitation] = None,
    on_sampling: Optional[OnSampling] = None,
    roots: Optional[Roots] = None,
    on_log: Optional[OnLog] = None,
    on_notification: Optional[OnNotification] = None,
    log_level: Optional[str] = None,
    validate: str = "output",
    limits: Optional[Limits] = None,
    hooks: Sequence[object] = (),
    client_info: Optional[Mapping[str, str]] = None,
) -> Client:
    """Connect to an MCP server and return an open client.

    Args:
        target: a URL (streamable HTTP, with the fallbacks that the specification
            gives); or a list with a program and its arguments (stdio), never a shell
            string; or one server's entry of an ``mcpServers`` file; or a transport.
        name: how the server is called in messages, logs and thread names.
        timeout: seconds in total for one call, or a :class:`mcpsync.Timeout`; 300 s
            by default. :data:`mcpsync.NO_TIMEOUT` waits for ever.
        startup_timeout: seconds for starting, connecting and negotiating.
        protocol: ``"auto"``, ``"legacy"``, or one protocol version.
        auth: :class:`mcpsync.OAuth`, a bearer token, or any ``requests`` authentication
            object (URLs only). Without it a login is used that was stored before.
        headers: for every HTTP request (URLs only).
        env: variables for the server's process (commands only).
        cwd: working directory of the server's process (commands only).
        on_elicitation: answers the server's questions to the user: gets an
            :class:`mcpsync.types.ElicitRequest` and returns an ``ElicitResult``, a
            mapping (accepts with this content) or ``None`` (declines). Defaults of
            the requested schema are filled in.
        on_sampling: runs a model for the server: gets a ``CreateMessageRequest`` and
            returns a ``CreateMessageResult``, or its wire form as a mapping.
        roots: what the server may look at: paths or ``file://`` URIs, or a function
            that returns them.
        on_log: gets the server's log messages; they go to the logger
            ``mcpsync.server.<name>`` otherwise.
        on_notification: gets every other notification, on a thread of its own.
        log_level: the least severe log messages wanted.
        validate: ``"output"`` checks structured results of listed tools against
            their schemas, ``"warn"`` only logs what does not fit, ``"off"`` does not.
        limits: bounds on what the server can make this process hold or do.
        hooks: objects as described in :mod:`mcpsync.hooks`.
        client_info: ``name`` and ``version`` that the server is told.

    A capability is declared only if its handler is given.

    Raises:
        ConfigError: the target is none.
        TypeError: an option does not apply to the target.
        MCPError: no connection could be made; see :mod:`mcpsync.exceptions`.
    """
    client = Client(
        target,
        name=name,
        timeout=timeout,
        startup_timeout=startup_timeout,
        protocol=protocol,
        auth=auth,
        headers=headers,
        env=env,
        cwd=cwd,
        on_elicitation=on_elicitation,
        on_sampling=on_sampling,
        roots=roots,
        on_log=on_log,
        on_notification=on_notification,
        log_level=log_level,
        validate=validate,
        limits=limits,
        hooks=hooks,
        client_info=client_info,
    )
    try:
        return client.open()
    except BaseException:
        client.close()
        raise
