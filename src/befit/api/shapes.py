"""Which protocol an error is told in: that of the route which was asked for."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from befit.api.anthropic.errors import PREFIX as ANTHROPIC_PREFIX
from befit.api.anthropic.errors import error_answer as in_anthropics_shape
from befit.api.ollama.errors import PREFIX as OLLAMA_PREFIX
from befit.api.ollama.errors import error_answer as in_ollamas_shape
from befit.api.openai.errors import error_answer as in_openais_shape
from befit.api.problem import Problem
from befit.api.tgi.errors import PATHS as TGI_PATHS
from befit.api.tgi.errors import error_answer as in_tgis_shape


def error_answer(problem: Problem, path: str) -> Response:
    """The answer to a request for `path` that failed before its answer began."""
    return _shape(path)(problem)


def _shape(path: str) -> Callable[[Problem], Response]:
    if path.startswith(ANTHROPIC_PREFIX):
        return in_anthropics_shape
    if path.startswith(OLLAMA_PREFIX):
        return in_ollamas_shape
    if path in TGI_PATHS:
        return in_tgis_shape
    return in_openais_shape
