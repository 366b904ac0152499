"""What is measured: an endpoint of a server, and the requests it gets."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from befit.errors import BenchmarkFailed, ConfigError


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to send: a text, or messages when it has `system` and the endpoint is a chat.

    max_tokens: output asked for. tokens: the prompt's length as the server should count it, None when unknown.
    reference: what a perfect answer holds, where there is such a thing.
    """

    text: str
    max_tokens: int
    system: str = ""
    tokens: int | None = None
    messages: tuple[dict[str, Any], ...] = ()
    reference: str = ""


@dataclass(slots=True)
class Target:
    """An endpoint of a server and how to ask it. `url` is the API's base, such as http://127.0.0.1:8000/v1."""

    url: str
    model: str = ""
    chat: bool = False
    api_key: str = ""
    temperature: float = 0.0
    ignore_eos: bool = True
    usage: bool = True
    timeout: float = 600.0
    keep_text: bool = False
    host: str = field(init=False)
    port: int = field(init=False)
    address: str = field(init=False)
    path: str = field(init=False)
    tls: ssl.SSLContext | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"The URL is {self.url!r}; give http://HOST:PORT/v1 or https://HOST/v1.")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.path = parts.path.rstrip("/")
        if parts.scheme == "https":
            self.tls = ssl.create_default_context()
        self.address = self._reachable()

    def _reachable(self) -> str:
        """The address of the host that takes connections: names are looked up once, not with every request."""
        try:
            with socket.create_connection((self.host, self.port), timeout=10) as connection:
                return str(connection.getpeername()[0])
        except OSError as error:
            raise BenchmarkFailed(
                f"Nothing answers at {self.url}: {error.strerror or error}. Start the server first, or correct the URL."
            ) from None

    @property
    def endpoint(self) -> str:
        """Path of the endpoint that is measured."""
        return f"{self.path}/chat/completions" if self.chat else f"{self.path}/completions"

    def body(self, prompt: Prompt, *, stream: bool = True) -> dict[str, Any]:
        """The request's JSON."""
        body: dict[str, Any] = {"model": self.model, "max_tokens": prompt.max_tokens, "temperature": self.temperature}
        if self.chat:
            system = [{"role": "system", "content": prompt.system}] if prompt.system else []
            body["messages"] = list(prompt.messages) or [*system, {"role": "user", "content": prompt.text}]
        else:
            body["prompt"] = f"{prompt.system} {prompt.text}" if prompt.system else prompt.text
        if self.ignore_eos:
            body["ignore_eos"] = True
        if stream:
            body["stream"] = True
            if self.usage:
                body["stream_options"] = {"include_usage": True}
        return body

    def request(self, prompt: Prompt) -> bytes:
        """The whole HTTP request for a streamed answer."""
        body = json.dumps(self.body(prompt)).encode()
        head = [
            f"POST {self.endpoint} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Accept: text/event-stream",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Authorization: Bearer {self.api_key}"] if self.api_key else []),
        ]
        return "\r\n".join([*head, "", ""]).encode("latin-1") + body

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """One plain exchange, for what is not measured. Raises OSError or http.client.HTTPException."""
        kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        options: dict[str, Any] = {"context": self.tls} if self.tls else {}
        connection = kind(self.host, self.port, timeout=self.timeout, **options)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
