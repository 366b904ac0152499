"""The socket that a server listens on, bound before anything slow is imported or loaded."""

from __future__ import annotations

import resource
import socket

from befit.errors import ConfigError

STALL_SECONDS = 60
"""A client that takes nothing of its answer for so long is let go, and what it asked for is aborted. So is one that is
gone without a word."""


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket on host:port (0 picks a free one), not listening yet. Raises ConfigError when it cannot be had.

    Binding before the model is loaded tells at once that a port is taken.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"Cannot serve on {host}:{port}: {error}. Use an address of this machine.") from None
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections have it from their listener
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * STALL_SECONDS)
        sock.bind(address)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"Cannot serve on {host}:{port}: {reason}. Use another --port or --host.") from None
    sock.set_inheritable(False)
    return sock


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may, and return how many: each connection is one, and a usual limit
    of 1,024 is there for programs of old that cannot count further."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # macOS names a limit that it does not grant
        return limit
    return most


def address(sock: socket.socket) -> str:
    """The URL that a bound socket answers at."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
