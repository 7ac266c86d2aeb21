"""Certificates for tests, made with the ``openssl`` program, and sockets with TLS."""

from __future__ import annotations

import contextlib
import datetime
import re
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Tuple

from .hostile import Answer, Hostile, hostile

__all__ = ["Certificate", "certificate", "expired_certificate", "tls_server"]


class Certificate(NamedTuple):
    """A certificate that signs itself, and its key: paths of two PEM files."""

    cert: str
    key: str


def certificate(folder: Path, name: str = "localhost") -> Certificate:
    """Make a certificate for the host `name`, good for a day."""
    made = Certificate(str(folder / (name + ".pem")), str(folder / (name + ".key")))
    _openssl(
        "req",
        "-x509",
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", made.key, "-out", made.cert, "-days", "1"),
        *("-subj", "/CN=" + name, "-addext", "subjectAltName=DNS:" + name),
    )
    return made


def expired_certificate(folder: Path, good: Certificate) -> Certificate:
    """Make a certificate that ended a year ago, from the key of a good one."""
    made = Certificate(str(folder / "expired.pem"), good.key)
    request = str(folder / "expired.csr")
    # A certificate authority of nobody's can say when a certificate begins and ends.
    settings = folder / "ca.cnf"
    settings.write_text(_AUTHORITY % {"folder": folder})
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("01\n")
    _openssl("req", "-new", "-key", good.key, "-subj", "/CN=localhost", "-out", request)
    year = datetime.date.today().year
    _openssl(
        *("ca", "-config", str(settings), "-batch", "-notext", "-in", request),
        *("-startdate", "%d0101000000Z" % (year - 2)),
        *("-enddate", "%d0101000000Z" % (year - 1)),
        *("-keyfile", good.key, "-selfsign", "-out", made.cert),
    )
    return made


_AUTHORITY = """
[ca]
default_ca = ours
[ours]
database = %(folder)s/index.txt
serial = %(folder)s/serial
new_certs_dir = %(folder)s
default_md = sha256
policy = anything
x509_extensions = names
[anything]
commonName = supplied
[names]
subjectAltName = DNS:localhost
"""


def _openssl(*arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
    )
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")


@contextlib.contextmanager
def tls_server(answer: Answer, made: Certificate) -> Iterator[Hostile]:
    """Run a server that speaks TLS; its URL names ``localhost``.

    ``answer(connection, head, body)`` writes the response to a request, as for
    :func:`hostile`; returning ``True`` it gets the next one on that connection.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)

    def serve(connection: socket.socket, head: bytes, body: bytes) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            again: object = True
            while again is True:
                request = _read(secure)
                if request is None:
                    return
                server.requests.append(request)
                again = answer(secure, *request)

    with hostile(serve, read_request=False) as server:
        server.url = "https://localhost:%d/mcp" % server.port
        yield server


def _read(connection: socket.socket) -> Optional[Tuple[bytes, bytes]]:
    """Return head and body of a request; None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    announced = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    while announced and len(body) < int(announced.group(1)):
        body += connection.recv(65536)
    return head, body
