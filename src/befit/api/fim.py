"""Filling in the middle: a prompt that asks a code model for the text between a prefix and a suffix.

Every family of code models has its own marker tokens and its own order of the parts. `FAMILIES` writes each down once,
as the template that it was trained on; which one a model is follows from its vocabulary, never from its name. A
template's markers become control tokens by their ids, while prefixes, suffixes, paths and files are encoded as the
plain text that they are: a marker inside a user's file cannot open or close anything.

Sources: Qwen2.5-Coder, arXiv 2409.12186; StarCoder 2, arXiv 2402.19173; CodeLlama, arXiv 2308.12950 and its reference
implementation; DeepSeek-Coder, arXiv 2401.14196; Codestral, mistral-common's `encode_fim`; CodeGemma, arXiv 2406.11409.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from befit.errors import ContextExceeded, UnsupportedField
from befit.sampling import SamplingParams
from befit.tokenizer.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Family:
    """How one family is asked. Markers stand in the templates as they are spelled in the vocabulary.

    hole           a file with a hole: {prefix} and {suffix}
    repository     the same with other files, {files}, before it; {path} is the path of the file with the hole
    file           one of the other files: {path} and {text}
    spaced_prefix  SentencePiece puts its space in front of the prefix (never of the suffix)
    """

    name: str
    hole: str
    repository: str
    file: str
    spaced_prefix: bool = False


def _in_prefix(name: str, hole: str, heading: str, *, between: str = "\n", spaced_prefix: bool = False) -> Family:
    """A family without a token between files: files go in front of the prefix as text, each under its heading."""
    repository = hole.replace("{prefix}", "{files}" + heading + "{prefix}")
    return Family(name, hole, repository, heading + "{text}" + between, spaced_prefix)


_PIPES = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
_PLAIN = "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"

FAMILIES = (
    Family("CodeGemma", _PIPES, "{files}{path}\n" + _PIPES, "{path}\n{text}<|file_separator|>"),
    Family(
        "Qwen2.5-Coder",
        _PIPES,
        "<|repo_name|>{repository}\n{files}<|file_sep|>{path}\n" + _PIPES,
        "<|file_sep|>{path}\n{text}\n",
    ),
    _in_prefix("Granite 4", _PIPES, "# {path}\n"),
    Family(
        "StarCoder2",
        _PLAIN,
        "<repo_name>{repository}{files}<file_sep>" + _PLAIN.replace("{prefix}", "{path}\n{prefix}"),
        "<file_sep>{path}\n{text}",
    ),
    _in_prefix("StarCoder", _PLAIN, "# {path}\n"),
    _in_prefix("SantaCoder", "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>", "# {path}\n"),
    _in_prefix("DeepSeek-Coder", "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>", "#{path}\n"),
    _in_prefix("CodeLlama", "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>", "# {path}\n", spaced_prefix=True),
    _in_prefix("Codestral", "[SUFFIX]{suffix}[PREFIX]{prefix}", "+++++ {path}\n", between="\n\n", spaced_prefix=True),
)
"""The first whose markers are all control tokens of a vocabulary is that vocabulary's. Granite's code models have
StarCoder's markers, Granite 4 has Qwen's without a token between files."""

_MARKER = re.compile(r"▁?<[^{}<>]*>|\[[A-Z]+\]")
_SLOT = re.compile(r"\{(\w+)\}")
_OTHER_ENDS = (
    *("<|fim_pad|>", "<fim_pad>", "<fim-pad>", "[MIDDLE]", "▁<EOT>"),
    *("<|filename|>", "<|reponame|>", "<filename>", "<reponame>", "<gh_stars>"),
)
"""Further tokens after which nothing belongs into the hole."""

DEFAULT_PATH = "current"
DEFAULT_REPOSITORY = "repository"
_STEPS = 8
"""A prefix that is too long loses its beginning in steps of this part of the room, so that the prompt of the next
keystroke begins where this one did and is found in the prefix cache."""
_SEPARATE = "☺"
"""In front of a text, keeps SentencePiece from putting a space there; the trick of CodeLlama's own code."""


@dataclass(frozen=True, slots=True)
class File:
    """Another file of the repository."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Tokens that were left out to make a prompt fit: the prefix's first, the suffix's last, whole files' from the
    first on."""

    prefix: int = 0
    suffix: int = 0
    files: int = 0

    def __bool__(self) -> bool:
        return bool(self.prefix or self.suffix or self.files)


@dataclass(frozen=True, slots=True)
class FimPrompt:
    """A prompt as token ids, and what is not in it."""

    ids: list[int]
    trimmed: Trimmed = field(default_factory=Trimmed)


class FimFormat:
    """How one model is asked to fill in. `stop_ids` are the tokens that end what belongs into the hole; the end of
    sequence is not among them, since it ends every generation."""

    def __init__(self, family: Family, tokenizer: Tokenizer) -> None:
        self.name = family.name
        self._family = family
        self._tokenizer = tokenizer
        control = tokenizer.control_tokens
        spellings = [*_OTHER_ENDS, *(marker for each in FAMILIES for marker in _markers(each))]
        self.stop_ids = tuple(sorted({control[each] for each in spellings if each in control} - tokenizer.eos_ids))
        self._bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        probe = tokenizer.encode("x", parse_special=False)[len(self._bos) :]
        self._spaces = tokenizer.token_bytes(probe[0]).startswith(b" ") if probe else False
        self._lead = tokenizer.encode(_SEPARATE, add_special=False, parse_special=False) if self._spaces else []

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> FimFormat | None:
        """The format of the model with this vocabulary, or None if it has the markers of no family."""
        for family in FAMILIES:
            if all(marker in tokenizer.control_tokens for marker in _markers(family)):
                return cls(family, tokenizer)
        return None

    def prompt(
        self,
        prefix: str | list[int],
        suffix: str,
        files: Sequence[File] = (),
        *,
        path: str = DEFAULT_PATH,
        repository: str = DEFAULT_REPOSITORY,
        limit: int | None = None,
    ) -> FimPrompt:
        """The prompt for a hole. Without `limit` it is whole. With it, the prompt has at most that many tokens: files
        give way first, the first of them before the last; then the prefix is trimmed from the left and the suffix,
        which keeps a quarter, from the right. Raises ContextExceeded when the markers alone do not fit.
        """
        before = prefix if isinstance(prefix, list) else self._encode(prefix, spaced=self._family.spaced_prefix)
        after = self._encode(suffix)
        names = {"path": path, "repository": repository}
        frame = len(self._bos) + len(self._fill(self._family.hole, names, {}))
        size = frame + len(before) + len(after)
        if limit is not None and size > limit:
            lost = sum(len(self._fill(self._family.file, _texts(each), {})) for each in files)
            return self._cut(before, after, limit - frame, lost)
        others = [self._fill(self._family.file, _texts(each), {}) for each in files]
        lost = 0
        if others and limit is not None:
            room = limit - len(before) - len(after) - len(self._bos)
            room -= len(self._fill(self._family.repository, names, {}))
            kept = _last_that_fit(others, room)
            lost = sum(map(len, others)) - sum(map(len, kept))
            others = kept
        template = self._family.repository if others else self._family.hole
        parts = {"prefix": before, "suffix": after, "files": [token for other in others for token in other]}
        return FimPrompt(self._bos + self._fill(template, names, parts), Trimmed(files=lost))

    def ends(self, params: SamplingParams) -> SamplingParams:
        """The parameters of someone who types, ending also at the tokens that end what belongs into the hole."""
        if params.ignore_eos:
            return replace(params, editor=True)
        return replace(params, editor=True, stop_token_ids=(*params.stop_token_ids, *self.stop_ids))

    def _cut(self, before: list[int], after: list[int], room: int, lost: int) -> FimPrompt:
        """The hole alone, trimmed to `room` tokens of prefix and suffix."""
        if room < 1:
            raise ContextExceeded(
                f"The context has room for {max(0, room)} tokens of prefix and suffix beside the markers and the "
                "output; ask for fewer tokens, or start the server with a larger --ctx."
            )
        suffix = min(len(after), max(room // 4, room - len(before)))
        excess = len(before) - (room - suffix)
        step = max(1, room // _STEPS)
        prefix = max(0, len(before) - max(0, -(-excess // step) * step))
        parts = {"prefix": before[len(before) - prefix :], "suffix": after[:suffix]}
        trimmed = Trimmed(len(before) - prefix, len(after) - suffix, lost)
        return FimPrompt(self._bos + self._fill(self._family.hole, {}, parts), trimmed)

    def _fill(self, template: str, names: Mapping[str, str], parts: Mapping[str, list[int]]) -> list[int]:
        """A template's ids: `names` are written into its text, `parts` are ids already (none, if they are missing)."""
        ids: list[int] = []
        text = ""
        for kind, piece in _pieces(template):
            if kind == "text" or piece in names:
                text += piece if kind == "text" else names[piece]
                continue
            ids += self._encode(text)
            text = ""
            ids += [self._tokenizer.control_tokens[piece]] if kind == "marker" else parts.get(piece, [])
        return ids + self._encode(text)

    def _encode(self, text: str, *, spaced: bool = False) -> list[int]:
        """Ids of plain text, of which SentencePiece's space is a part only where the family wants it."""
        if not text:
            return []
        if not self._spaces:
            return self._tokenizer.encode(text, add_special=False, parse_special=False)
        separated = _SEPARATE + (" " if spaced else "") + text
        return self._tokenizer.encode(separated, add_special=False, parse_special=False)[len(self._lead) :]


def require(found: FimFormat | None, param: str) -> FimFormat:
    """The format, or UnsupportedField naming `param` for a model that has none."""
    if found is None:
        known = ", ".join(family.name for family in FAMILIES)
        raise UnsupportedField(
            f"{param} asks to fill in the middle, which this model cannot: its vocabulary has the FIM tokens of no "
            f"family that befit knows ({known}). Send the text before the cursor as a plain prompt, or serve a code "
            "model.",
            param,
        )
    return found


def _markers(family: Family) -> list[str]:
    return _MARKER.findall(family.hole + family.repository + family.file)


def _pieces(template: str) -> Iterator[tuple[str, str]]:
    """("marker" | "slot" | "text", spelling) in order."""
    at = 0
    for match in re.finditer(f"{_MARKER.pattern}|{_SLOT.pattern}", template):
        if match.start() > at:
            yield "text", template[at : match.start()]
        yield ("marker", match[0]) if match[1] is None else ("slot", match[1])
        at = match.end()
    if at < len(template):
        yield "text", template[at:]


def _texts(file: File) -> dict[str, str]:
    return {"path": file.path, "text": file.text}


def _last_that_fit(files: list[list[int]], room: int) -> list[list[int]]:
    kept = len(files)
    while kept and len(files[kept - 1]) <= room:
        kept -= 1
        room -= len(files[kept])
    return files[kept:]
