"""Everything befit raises on purpose.

    BefitError                       code                     HTTP status
    ├── InvalidRequest               invalid_request          400   a field of a request is wrong; names it
    │   ├── ContextExceeded          context_length_exceeded  400   prompt + output do not fit the context
    │   └── UnsupportedField         unsupported_field        400   a field befit knows and cannot honour here
    ├── AuthenticationError          invalid_api_key          401
    ├── NotAllowed                   not_allowed              403   something the server was not started to do
    ├── ModelNotFound                model_not_found          404   no such name, path or served model
    ├── ResponseNotFound             response_not_found       404   a stored response that is not there
    ├── BodyTooLarge                 body_too_large           413   more bytes than a request may have
    ├── Overloaded                   overloaded               503   the queue is full, or the server is draining
    ├── RateLimited                  rate_limited             429   a key has used up what it may
    ├── RequestTimeout               request_timeout          504   an answer took longer than the server allows
    ├── RequestFailed                request_failed           500   one request failed alone
    │   ├── NonFiniteLogits          non_finite_logits        500   the model produced NaN or infinity
    │   └── OutOfDeviceMemory        out_of_device_memory     500   a card had no room for a step
    ├── EngineDead                   engine_dead              500   the engine loop ended; nothing can be served
    ├── ModelError                   model_error              500   a model file cannot be used
    │   ├── CorruptFile              corrupt_file             500   truncated, damaged or hostile
    │   ├── UnsupportedModel         unsupported_model        500   an architecture, tensor type or tokeniser
    │   ├── BuildMismatch            build_mismatch           500   a built folder is damaged, old or out of date
    │   └── TemplateError            template_error           400   the chat template refused the messages
    ├── DoesNotFit                   does_not_fit             500   memory or disk accounted before use is not there
    ├── DownloadError                download_failed          500   fetching a model failed
    ├── BenchmarkFailed              benchmark_failed         500   a server to measure does not start or answer
    └── ConfigError                  config_error             500   a setting or option is wrong

Each error says what happened, the number that was wrong and what to do instead. `code` is stable: programs may match
on it. The protocols under `api/` render these in their own shapes and never invent statuses of their own.
"""

from __future__ import annotations


class BefitError(Exception):
    """Base of all deliberate errors: `code` is stable, `status` is the HTTP status a server answers with."""

    code = "befit_error"
    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(BefitError):
    """A request asks for something wrong; `param` names the field when one is to blame."""

    code = "invalid_request"
    status = 400

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextExceeded(InvalidRequest):
    """Prompt and output together do not fit the context; the message has both numbers."""

    code = "context_length_exceeded"


class UnsupportedField(InvalidRequest):
    """A field that befit knows and cannot honour here."""

    code = "unsupported_field"


class AuthenticationError(BefitError):
    """The key is missing or wrong."""

    code = "invalid_api_key"
    status = 401


class NotAllowed(BefitError):
    """Something that the server was not started to do for its clients."""

    code = "not_allowed"
    status = 403


class ModelNotFound(BefitError):
    """No such name, path or served model."""

    code = "model_not_found"
    status = 404


class ResponseNotFound(BefitError):
    """A response that is not kept, or not any more."""

    code = "response_not_found"
    status = 404


class BodyTooLarge(BefitError):
    """The request's body is over the limit."""

    code = "body_too_large"
    status = 413


class Overloaded(BefitError):
    """The queue is full, or the server is draining: try again later."""

    code = "overloaded"
    status = 503


class RateLimited(BefitError):
    """A key has used up what it may; `retry_after` seconds later it may try again."""

    code = "rate_limited"
    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestTimeout(BefitError):
    """An answer took longer than the server allows."""

    code = "request_timeout"
    status = 504


class RequestFailed(BefitError):
    """One request failed; the others go on."""

    code = "request_failed"


class NonFiniteLogits(RequestFailed):
    """The model produced NaN or infinity for one request."""

    code = "non_finite_logits"


class OutOfDeviceMemory(RequestFailed):
    """A card ran out of memory; the step has not happened, and a smaller one may."""

    code = "out_of_device_memory"


class EngineDead(BefitError):
    """The engine loop ended; nothing can be served until a restart."""

    code = "engine_dead"


class ModelError(BefitError):
    """A model file cannot be used."""

    code = "model_error"


class CorruptFile(ModelError):
    """A file is truncated, damaged or hostile; the message says where."""

    code = "corrupt_file"


class UnsupportedModel(ModelError):
    """An architecture, tensor type or tokeniser that befit does not run."""

    code = "unsupported_model"


class BuildMismatch(ModelError):
    """A folder that `befit build` wrote cannot be used as it is; the message says what does not match.

    `source` is the path of the GGUF file that it was built from, when the folder says so.
    """

    code = "build_mismatch"

    def __init__(self, message: str, source: str | None = None) -> None:
        super().__init__(message)
        self.source = source


class TemplateError(ModelError):
    """The chat template refused the messages."""

    code = "template_error"
    status = 400


class DoesNotFit(BefitError):
    """Memory or disk that was accounted for before use is not there."""

    code = "does_not_fit"


class DownloadError(BefitError):
    """Fetching a model failed."""

    code = "download_failed"


class BenchmarkFailed(BefitError):
    """A benchmark has nothing to measure: a server does not start, does not answer, or does not say what is needed."""

    code = "benchmark_failed"


class ConfigError(BefitError):
    """A setting or option is wrong."""

    code = "config_error"
