"""What is fuzzed. Each target takes bytes; anything but a result or an error of befit's own is a finding."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from befit import models, tokenizer
from befit.errors import BefitError
from befit.tokenizer.incremental import IncrementalDecoder
from befit.weights.checkpoint import Checkpoint
from support.files import TEMPLATE, tiny_file, vocabulary
from support.hf import hf_arrays, hf_config, tokenizer_json, write_safetensors
from support.tiny import FAMILY_NAMES, tiny_model

One = Callable[[bytes], None]
KEY = "tokenizer.ggml."
HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]


@dataclass(frozen=True)
class Target:
    """make() -> what takes one input. seeds() -> inputs to begin with. words: for JSON documents, what to put into them;
    without, bytes are changed. longest: bytes of an input."""

    make: Callable[[], One]
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[str, ...] = ()
    longest: int = 4096


def document(take: Callable[[Any], None]) -> One:
    """An input that is JSON."""

    def one(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        take(value)

    return one


def fields(value: Any, **defaults: Any) -> SimpleNamespace:
    """A document's fields, each a default where it is missing or of another type."""
    given = value if isinstance(value, dict) else {}
    return SimpleNamespace(
        **{
            name: given[name] if name in given and isinstance(given[name], type(default)) else default
            for name, default in defaults.items()
        }
    )


def dumped(*values: Any) -> Iterator[bytes]:
    for value in values:
        yield json.dumps(value).encode()


# -- files of models


def load_all(file: Checkpoint) -> None:
    """What a start does with an open model, up to the weights."""
    for key in file.metadata:
        with contextlib.suppress(BefitError):
            file.metadata[key]
    for name in file.shapes:
        with contextlib.suppress(BefitError):
            file.tensors[name].dequantize()
    with contextlib.suppress(BefitError):
        tokenizer.load(file.metadata).encode("ab <0x41> é")
    with contextlib.suppress(BefitError):
        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        file.check(program.weight_names())


def folder_of(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"befit-fuzz-{name}-"))


def make_gguf() -> One:
    from befit.weights.gguf import GGUFFile

    path = folder_of("gguf") / "m.gguf"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(BefitError), GGUFFile.open(path) as file:
            load_all(file)

    return one


def gguf_seeds() -> Iterator[bytes]:
    from weights.conftest import Gguf

    yield from (Gguf.small(2), Gguf.small(3))
    path = folder_of("seed") / "m.gguf"
    for family in FAMILY_NAMES:
        yield tiny_file(path, family, hidden=32, n_heads=1, n_kv_heads=1, n_layers=1, ffn=32).read_bytes()


def make_safetensors() -> One:
    from befit.weights.safetensors import read_safetensors
    from befit.weights.safetensors_header import parse_header

    path = folder_of("safetensors") / "m.safetensors"

    def one(data: bytes) -> None:
        with contextlib.suppress(BefitError):
            parse_header(data, "x")
        path.write_bytes(data)
        with contextlib.suppress(BefitError):
            file = read_safetensors(path)
            for name in file.entries:
                assert file.raw(name).nbytes == file.entries[name].end - file.entries[name].begin
                file.release(name)

    return one


def safetensors_seeds() -> Iterator[bytes]:
    arrays = {"a": ("F32", np.ones((2, 3))), "b": ("I8", np.ones(5)), "c": ("BF16", np.ones((0, 4)))}
    content = write_safetensors(folder_of("seed") / "m.safetensors", arrays).read_bytes()
    yield content
    yield content[8:-15]


def make_folder() -> One:
    from befit.weights.hf_folder import HFFolder

    folder = folder_of("folder")
    write_safetensors(folder / "model.safetensors", hf_arrays(tiny_model("llama", vocab=288, hidden=32, n_layers=1)))

    def take(value: Any) -> None:
        for name in ("config", "generation_config", "tokenizer_config", "tokenizer"):
            path = folder / f"{name}.json"
            path.unlink(missing_ok=True)
            if isinstance(value, dict) and name in value:
                path.write_text(json.dumps(value[name]))
        with contextlib.suppress(BefitError), HFFolder.open(folder) as file:
            load_all(file)

    return document(take)


def folder_seeds() -> Iterator[bytes]:
    texts = {
        "tokenizer": tokenizer_json(),
        "tokenizer_config": {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": TEMPLATE},
        "generation_config": {"eos_token_id": [262], "temperature": 0.5, "top_k": 3},
    }
    quantised = [
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True},
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    ]
    for family in FAMILY_NAMES:
        yield from dumped({"config": hf_config(tiny_model(family, vocab=288, hidden=32, n_layers=1)), **texts})
    config = hf_config(tiny_model("llama", vocab=288, hidden=32, n_layers=1))
    yield from dumped(*({"config": {**config, "quantization_config": each}, **texts} for each in quantised))
    yield from dumped({"config": {**config, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, **texts})


CONFIG_WORDS = (
    "rope_scaling", "rope_type", "yarn", "llama3", "linear", "dynamic", "factor", "quantization_config", "gptq", "awq", "fp8",
    "bits", "group_size", "text_config", "auto_map", "architectures", "model_type", "head_dim", "sliding_window", "layer_types",
    "content", "added_tokens", "normalizer", "pre_tokenizer", "Sequence", "Split", "Regex", "(a+)+$", "merges", "vocab", "BPE",
    "Unigram", "byte_fallback", "Metaspace", "chat_template", "eos_token_id", "<0x41>", "\u2581",
)  # fmt: skip


# -- texts


def make_template() -> One:
    from befit.api.chat import ChatTemplate
    from befit.api.chat_sandbox import MAX_CHARACTERS

    words = vocabulary()
    made = tokenizer.load(words)
    leaks = ("<class ", "<module ", "<function ", "<built-in", "object at 0x")

    def take(value: Any) -> None:
        given = fields(value, template="", messages=HI, tools=[])
        messages = [message for message in given.messages if isinstance(message, dict)]
        try:
            template = ChatTemplate.from_metadata({**words, "tokenizer.chat_template": given.template}, made)
            shown = template.render(messages, tools=given.tools or None)
            template.encode(messages)
        except BefitError as error:
            assert len(error.message) < 3000, len(error.message)
            return
        assert len(shown) <= MAX_CHARACTERS
        assert not [leak for leak in leaks if leak in shown and leak not in json.dumps(value)], shown

    return document(take)


def template_seeds() -> Iterator[bytes]:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    texts = [
        TEMPLATE,
        "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
        "{% set ns = namespace(x=0) %}{% for m in messages %}{% set ns.x = ns.x + loop.index %}{% endfor %}{{ ns.x }}",
        "{% macro f(a) %}{{ a }}{% if a > 0 %}{{ f(a - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
        "{{ raise_exception('no') }}",
        "{% for k, v in messages[0].items() %}{{ '%s=%s' % (k, v) }}{{ '{}'.format(v) }}{% endfor %}",
        "{{ strftime_now('%Y') }}{{ messages | map(attribute='content') | join(', ') }}{{ range(9) | list }}",
    ]
    yield from dumped(*({"template": text, "messages": HI, "tools": [tool]} for text in texts))


TEMPLATE_WORDS = (
    "{{", "}}", "{%", "%}", "{#", "{%- for m in messages %}", "{% endfor %}", "{% if x %}", "{% else %}", "{% endif %}",
    "{% set x = x ~ x %}", "{% macro f() %}", "{% endmacro %}", "{{ f() }}", "{% block a %}", "{% include 'a' %}", "{% call f() %}",
    "{% filter upper %}", "{% raw %}", "{% generation %}", "{% break %}", "range(10 ** 9)", " * 10 ** 9", "|format(9)", ".format(m)",
    "'%99999999d' % 1", "|center(999999999)", "|indent(9999999)", "|tojson", "|attr('__class__')", ".__class__", ".__globals__",
    "|map(attribute='a.__class__')", "|batch(9)", "|slice(9)", "|groupby('role')", "|sort(attribute='role')", "|wordwrap(1)",
    "|urlize", "|xmlattr", "|random", "|sum", "|unique", "|round(99)", "lipsum(99)", "cycler", "joiner", "self", "loop", "dict(a=1)",
    "messages[0].update({})", "messages.append(1)", ".split('')", ".replace('', 'x' * 999)", ".join(range(9))", "[::-1]", "1 / 0",
    "strftime_now('%Y')", "raise_exception(1)", "namespace()", "{'a': 1}", "not", " is defined", " is sequence", " is divisibleby(0)",
)  # fmt: skip


def make_structure(kind: str) -> Callable[[], One]:
    """JSON schemas, regular expressions or grammars: compiled and followed for some tokens."""

    def make() -> One:
        from befit.engine.grammar import Grammars
        from befit.structure import Structure, schema_text
        from support.confined import VOCAB, ByteTokenizer

        words: Any = ByteTokenizer()
        masks = np.zeros((1, (VOCAB + 31) // 32), np.uint32)

        def follow(structure: Structure) -> None:
            grammar = Grammars(words, VOCAB).start(structure)
            for step in range(12):
                masks[:] = 0
                grammar.fill(masks, [])
                if grammar.error is not None:
                    return
                allowed = np.flatnonzero(np.unpackbits(masks.view(np.uint8), bitorder="little"))
                assert len(allowed), "nothing is allowed, and there is no error"
                if grammar.push(int(allowed[step * 7 % len(allowed)])):
                    return

        def take(value: Any) -> None:
            with contextlib.suppress(BefitError):
                if kind == "json":
                    follow(Structure("json", schema_text(value, lenient=True, param="it"), param="it"))
                elif isinstance(value, str):
                    follow(Structure(kind, value, param="it"))  # type: ignore[arg-type]

        return document(take)

    return make


def schema_seeds() -> Iterator[bytes]:
    from support import schemas

    yield from dumped(*(value for value in vars(schemas).values() if isinstance(value, dict) and "type" in value))
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"next": {"$ref": "#/$defs/t"}}}}}
    text = {"type": "string", "pattern": "^[a-z]{2,5}$", "format": "date-time", "minLength": 1}
    yield from dumped(tree, text, {"anyOf": [{"enum": [1, "a", None]}, {"items": text, "minItems": 2}]})


SCHEMA_WORDS = (
    "type", "object", "array", "string", "integer", "number", "null", "properties", "required", "items", "prefixItems", "enum", "const",
    "anyOf", "allOf", "oneOf", "not", "$ref", "#", "#/$defs/t", "$defs", "$id", "$anchor", "minimum", "maximum", "exclusiveMinimum",
    "multipleOf", "minLength", "maxLength", "pattern", "(a+)+$", "((a{1,99}){1,99}){1,99}", "[^a]*", "format", "date-time", "uuid",
    "email", "minItems", "maxItems", "uniqueItems", "additionalProperties", "patternProperties", "propertyNames", "if", "then", "else",
    "minProperties", "dependentRequired", "unevaluatedProperties", "contains", "x-guidance",
)  # fmt: skip
PATTERN_WORDS = (
    "(", ")", "(?:", "(?=", "(?!", "(?i)", "(?P<n>", "[", "]", "[^", "a-z", "\\d", "\\w", "\\s", "\\b", "\\p{L}", "\\x41", "\\u{1F600}",
    "*", "+", "?", "*?", "{9999}", "{1,999}", "{,}", "|", ".", "^", "$", "&", "~", "(a+)+", "(a|a)*", "((a*)*)*", "\\1", "\\", "é",
)  # fmt: skip
GRAMMAR_WORDS = (
    "start: ", "root ::= ", " | ", "\n", '"a"', "/a+/", "/(a|b)*/", "a: a a", "%json {}", "%llguidance {}", "%ignore /x/", "%regex {}",
    "{1,99}", "{99999}", "*", "+", "?", "[a-z]", "[^\\n]", "(", ")", "<[1]>", "<[99999]>", "<a>", "A: ", "::=", "stop=", "lazy",
    "max_tokens=3", "[capture]", "%import common.INT", "@a", "&", "~", '"\\x00"', "# x",
)  # fmt: skip


def regex_seeds() -> Iterator[bytes]:
    yield from dumped("(a+)+$", r"\d{4}-\d{2}-\d{2}", "[a-z]*(foo|bar)?", "a{2,30}", "", r"(?i:x)\p{Lu}[^\n]")


def grammar_seeds() -> Iterator[bytes]:
    yield from dumped(
        'start: "a" b*\nb: /[0-9]+/ | "(" b ")"',
        'root ::= "a" item+\nitem ::= [a-z]+ | "(" item ")"',
        '%llguidance {}\nstart: x\nx: %json {"type": "object"}',
        "start: a\na: a a | B\nB: /b/",
    )


def make_tools() -> One:
    from api.tools.test_parsers import FORMATS
    from befit.api.tools.pieces import CallDelta
    from befit.api.tools.request import tool_use
    from befit.engine.grammar import Grammars
    from befit.structure import Structure
    from support.confined import VOCAB, ByteTokenizer

    words: Any = ByteTokenizer()

    def read(form: Any, names: frozenset[str], pieces: list[str]) -> tuple[str, list[list[str]]]:
        parser = form.read(names)
        text, calls = "", []
        for piece in [*(part for each in pieces for part in parser.push(each)), *parser.finish()]:
            if isinstance(piece, CallDelta):
                if piece.name is not None:
                    calls.append([piece.name, ""])
                calls[piece.index][1] += piece.arguments
            else:
                text += piece
        return text, calls

    def take(value: Any) -> None:
        given = fields(value, tools=[], reply="")
        whole = value if isinstance(value, dict) else {}
        with contextlib.suppress(BefitError):
            tools = [tool for tool in given.tools if isinstance(tool, dict)]
            use = tool_use(tools, whole.get("choice"), whole.get("parallel"))
            names = use.names if use is not None else frozenset({"f"})
            for form in FORMATS.values():
                if len(given.reply) <= 2000:
                    assert read(form, names, [given.reply]) == read(form, names, list(given.reply)), form.name
            if use is not None:
                form = list(FORMATS.values())[len(given.reply) % len(FORMATS)]
                rules = form.grammar(use.callable, words, several=use.several, param="tools")
                form.begun(use.callable)
                Grammars(words, VOCAB).start(
                    Structure("grammar", f"%llguidance {{}}\nstart: calls\n{rules}", param="tools")
                )

    return document(take)


def tools_seeds() -> Iterator[bytes]:
    from api.tools.test_parsers import WRITTEN

    properties = {"x": {"type": "integer"}, "y": {"enum": ["a", "b"]}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    for _, text, *_ in WRITTEN:
        yield from dumped({"tools": [tool], "choice": "auto", "parallel": True, "reply": text})
    named = {"type": "function", "function": {"name": "f"}}
    yield from dumped({"tools": [tool], "choice": named, "parallel": False, "reply": ""})


TOOL_WORDS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "```json\n", "```", "```tool_code\n", '{"name": "f"',
    '"arguments": {', '"parameters": {', "f(x=1)", "[f(", "g()]", "}", "]", "{", '"', "\\", "\\u", "\ud800", "\0", "'", "1e999", "-", "name",
    "function", "parameters", "strict", "required", "any", "none", "allowed_tools", "mode", "type", "object", "properties", "\u2028",
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>",
)  # fmt: skip


def make_tokenizer() -> One:
    from befit.tokenizer.pretokenizers import SPLITTINGS

    plain = {name: value for name, value in vocabulary().items() if name.startswith(KEY)}
    made = [tokenizer.load({**plain, f"{KEY}pre": pre}) for pre in SPLITTINGS]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a", "ab"]
    sentencepiece = {
        f"{KEY}model": "llama",
        f"{KEY}tokens": pieces,
        f"{KEY}token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 4, np.int32),
        f"{KEY}scores": np.array([0.0] * 259 + [-1.0, -2.0, -1.5, -1.2], np.float32),
    }
    made.append(tokenizer.load(sentencepiece))

    def one(data: bytes) -> None:
        if not data:
            return
        which, text = made[data[0] % len(made)], data[1:].decode("utf-8", "surrogatepass" if data[0] & 128 else "replace")
        ids = which.encode(text, parse_special=False)
        assert all(0 <= token < which.vocab_size for token in ids)
        shown = which.decode(ids)
        if which is made[0]:
            assert shown == text
        decoder = IncrementalDecoder(which)
        streamed = "".join(decoder.push(token) for token in ids) + decoder.flush()
        assert streamed == shown, (streamed, shown)
        which.encode(text)

    def guarded(data: bytes) -> None:
        with contextlib.suppress(BefitError, UnicodeDecodeError):
            one(data)

    return guarded


def tokenizer_seeds() -> Iterator[bytes]:
    texts = ["hello  world\n\n\tx = 1234", "<|im_start|>user\n<|im_end|>", "\0\ufeff\u202ee\u0301👩‍👩‍👧 <0x41>", "ab \u2581a"]
    for at, text in enumerate(texts * 8):
        yield bytes([at * 7 % 256]) + text.encode()


# -- requests

PATHS = (
    "/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/v1/embeddings", "/v1/models",
    "/tokenize", "/detokenize", "/completion", "/infill", "/apply-template", "/api/chat", "/api/generate", "/api/embed", "/api/show",
    "/generate", "/generate_stream", "/",
)  # fmt: skip


def make_app() -> tuple[Any, Any]:
    from api.conftest import FakeEngine
    from befit.api.app import create_app
    from befit.api.chat import ChatTemplate

    engine = FakeEngine()
    template = ChatTemplate(TEMPLATE, engine.model.tokenizer, source="the tests'")
    return engine, create_app(engine, served_name="fake", chat_template=template)


def make_request() -> One:
    engine, app = make_app()
    loop = asyncio.new_event_loop()

    async def ask(path: str, body: bytes) -> tuple[int, bytes]:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "headers": [(b"host", b"befit"), (b"content-type", b"application/json")],
        }  # fmt: skip
        sent: list[Mapping[str, Any]] = []
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    def take(value: Any) -> None:
        given = fields(value, path="", body={})
        if given.path in PATHS:
            status, answer = loop.run_until_complete(asyncio.wait_for(ask(given.path, json.dumps(given.body).encode()), 5))
            assert status < 500, (status, answer)
            assert engine.open == 0

    return document(take)


def request_seeds() -> Iterator[bytes]:
    simple = {"model": "fake", "prompt": "ab", "input": "hi", "messages": HI, "max_tokens": 4, "inputs": "hi", "tokens": [65]}
    simple |= {"input_prefix": "a", "input_suffix": "b", "content": "x"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    asked = {"stop": ["x"], "logprobs": True, "top_logprobs": 2, "seed": 1, "n": 2, "tools": [tool], "stream": True, "suffix": "b"}
    for path in PATHS:
        yield from dumped({"path": path, "body": simple}, {"path": path, "body": {**simple, **asked}})


REQUEST_WORDS = (
    *PATHS, "stream", "stream_options", "include_usage", "n", "best_of", "echo", "logit_bias", "50256", "stop", "logprobs", "role", "content",
    "system", "user", "assistant", "tool", "developer", "text", "type", "image_url", "tool_calls", "tool_call_id", "function_call", "name",
    "response_format", "json_schema", "schema", "guided_regex", "(a+)+$", "options", "num_predict", "format", "json", "raw", "images", "think",
    "parameters", "max_new_tokens", "details", "input_extra", "n_predict", "grammar", "root ::= [", "<|begin|>", "tools", "tool_choice",
)  # fmt: skip


def make_http() -> One:
    """Bytes on a connection, to the server as it runs."""
    import uvloop

    from befit.api.listener import bind
    from befit.api.server import Server

    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    started = threading.Event()
    server = Server(make_app()[1], 1.0, started.set)

    async def serve() -> None:
        await server.fleet.start()
        await server.serve(sockets=[listener])

    threading.Thread(target=lambda: uvloop.run(serve()), daemon=True).start()
    assert started.wait(30)

    def ask(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(1 << 16):
                answer += more
            return answer
        return b""

    def one(data: bytes) -> None:
        answer = ask(data)
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:500]
        healthy = ask(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert healthy.startswith(b"HTTP/1.1 200"), healthy[:200]

    return one


def http_seeds() -> Iterator[bytes]:
    body = json.dumps({"model": "fake", "prompt": "ab", "max_tokens": 3}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    yield head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    yield head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    yield head + b"Content-Length: 1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    yield head + b"Expect: 100-continue\r\nAuthorization: Bearer x\r\nX-Request-Id: \x00\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.0\r\n\r\n"
    yield b"OPTIONS * HTTP/1.1\r\nOrigin: http://a\r\nAccess-Control-Request-Method: POST\r\nCookie: a=b\r\n\r\n"
    yield b"GET /%00/..%2f?a=%ff&b=\xff HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


TARGETS: dict[str, Target] = {
    "gguf": Target(make_gguf, gguf_seeds, longest=1 << 16),
    "safetensors": Target(make_safetensors, safetensors_seeds),
    "folder": Target(make_folder, folder_seeds, CONFIG_WORDS, longest=1 << 16),
    "template": Target(make_template, template_seeds, TEMPLATE_WORDS, longest=1 << 14),
    "schema": Target(make_structure("json"), schema_seeds, SCHEMA_WORDS, longest=1 << 14),
    "regex": Target(make_structure("regex"), regex_seeds, PATTERN_WORDS),
    "grammar": Target(make_structure("grammar"), grammar_seeds, GRAMMAR_WORDS),
    "tools": Target(make_tools, tools_seeds, TOOL_WORDS, longest=1 << 14),
    "tokenizer": Target(make_tokenizer, tokenizer_seeds),
    "request": Target(make_request, request_seeds, REQUEST_WORDS, longest=1 << 14),
    "http": Target(make_http, http_seeds, longest=1 << 15),
}
