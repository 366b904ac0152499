"""The options of `befit serve` about who may ask, how much, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from befit.cli.options import POSITIVE

Function = TypeVar("Function", bound=Callable[..., Any])

_NAMES = (
    *("api_key", "api_key_file", "cors_origin", "max_body", "requests_per_key", "tokens_per_minute"),
    *("request_timeout", "access_log", "otlp_endpoint"),
)


def guard_options(function: Function) -> Function:
    """Keys, limits, origins, the access log and traces."""
    for option in (
        click.option("--access-log/--no-access-log", default=True, show_default=True, help="A line for each request."),
        click.option(
            "--otlp-endpoint",
            metavar="URL",
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="Send OpenTelemetry traces to this receiver (extra otel).",
        ),
        click.option(
            "--request-timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="S",
            help="Seconds an answer may take.",
        ),
        click.option("--tokens-per-minute", type=POSITIVE, metavar="N", help="Of a key, in and out; then 429."),
        click.option("--requests-per-key", type=POSITIVE, metavar="N", help="At once; one more is answered 429."),
        click.option("--max-body", metavar="SIZE", help="What a request's body may have.  [default: 32MiB]"),
        click.option(
            "--cors-origin", metavar="ORIGIN", multiple=True, help="Pages of this origin may ask; * is any; repeatable."
        ),
        click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Keys, one a line."),
        click.option(
            "--api-key", metavar="KEY", multiple=True, envvar="BEFIT_API_KEY", help="Ask for this key; repeatable."
        ),
    ):
        function = option(function)
    return function


def to_guard(values: dict[str, Any]) -> dict[str, Any]:
    """Takes the options out of `values`; returns `create_app`'s `rules`, `origins` and `spans`."""
    from befit.api.guard.keys import Keys, read_keys
    from befit.api.guard.limits import Limits
    from befit.api.guard.middleware import Rules
    from befit.plan.machine import parse_size

    given = {name: values.pop(name) for name in _NAMES}
    keys = [*given["api_key"], *(read_keys(given["api_key_file"]) if given["api_key_file"] is not None else ())]
    rules = Rules(
        keys=Keys.of(keys),
        limits=Limits(given["requests_per_key"], given["tokens_per_minute"]),
        timeout=given["request_timeout"],
        access_log=given["access_log"],
        **({"max_body": parse_size(given["max_body"])} if given["max_body"] else {}),
    )
    endpoint = given["otlp_endpoint"]
    spans = None
    if endpoint:
        from befit.api.tracing import to_endpoint

        spans = to_endpoint(endpoint)
    return {"rules": rules, "origins": given["cors_origin"], "spans": spans}
