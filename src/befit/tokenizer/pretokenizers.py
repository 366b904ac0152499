"""How byte-level BPE tokenisers split text into words before merging: one entry for each `tokenizer.ggml.pre`.

A GGUF file only names its way of splitting. What the names stand for is the `pre_tokenizer` and `normalizer` of the
model's original tokenizer.json, and is written down here; llama.cpp's src/llama-vocab.cpp lists the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

from befit.errors import CorruptFile, UnsupportedModel

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}|" + _TAIL
"""OpenAI's pattern of that name, in which the digits taken at once vary between families."""

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SEED_CODER = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CJK_RANGES = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CASED = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-"
    "\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80"
    "-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-"
    "\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
"""Letters with case, the ranges that DeepSeek-LLM's tokenizer.json spells out: those of an early Unicode."""


@dataclass(frozen=True, slots=True)
class Splitting:
    """One way of splitting.

    patterns       regular expressions, applied one after the other; what matches is split off from what does not
    digits         every digit is a word of its own (after `patterns`)
    gpt2           the GPT-2 pattern last, rather than nothing more
    nfc            the text is brought to Unicode normal form C first
    ignore_merges  a word that is a token becomes it, even where merges lead elsewhere
    adds_bos       the model wants BOS where its file does not say
    """

    patterns: tuple[str, ...] = ()
    digits: bool = False
    gpt2: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The splitting as the `tokenizers` library runs it, bytes mapped to characters at the end."""
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns
        ]
        if self.digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2))
        return pre_tokenizers.Sequence(steps)

    def normalizer(self) -> normalizers.Normalizer | None:
        """What happens to the text before splitting, if anything."""
        return normalizers.NFC() if self.nfc else None


_GPT2 = Splitting(gpt2=True)
_STARCODER = Splitting(digits=True, gpt2=True)
_QWEN2 = Splitting((_CL100K % "1",), nfc=True)
_LLAMA3 = Splitting((_CL100K % "1,3",), ignore_merges=True, adds_bos=True)

SPLITTINGS: Mapping[str, Splitting] = {
    "gpt-2": _GPT2,
    "smollm": _STARCODER,
    "starcoder": _STARCODER,
    "refact": _STARCODER,
    "codeshell": _STARCODER,
    "command-r": Splitting(digits=True, gpt2=True, nfc=True),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "deepseek-llm": Splitting(
        (
            r"[\r\n]",
            rf"\s?[{_CASED}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CJK_RANGES,
        ),
        digits=True,
    ),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_RANGES), digits=True),
    "deepseek-v3": Splitting((r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK_V3)),
    "tekken": Splitting((_TEKKEN,), ignore_merges=True, adds_bos=True),
    "seed-coder": Splitting((_SEED_CODER,)),
}

_BY_ARCHITECTURE = {"qwen2": "qwen2", "qwen3": "qwen2", "starcoder": "starcoder", "starcoder2": "starcoder"}
_BY_TOKEN = {
    "<|begin_of_text|>": "llama-bpe",
    "<｜fim▁hole｜>": "deepseek-coder",
    "<jupyter_start>": "starcoder",
}


def splitting(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Splitting:
    """The splitting that the file names. Raises UnsupportedModel for one that befit does not have.

    Early GGUF files name none, or "default"; theirs is that of the family that the architecture, or a token that only
    one family has, gives away, and GPT-2's otherwise.
    """
    name = metadata.get("tokenizer.ggml.pre")
    if name is None or name in ("", "default"):
        architecture = metadata.get("general.architecture")
        name = _BY_ARCHITECTURE.get(architecture) if isinstance(architecture, str) else None
        name = name or next((known for token, known in _BY_TOKEN.items() if token in vocabulary), "gpt-2")
    if not isinstance(name, str):
        raise CorruptFile(f"tokenizer.ggml.pre is {name!r}, not a name.")
    if name not in SPLITTINGS:
        raise UnsupportedModel(
            f"The model file splits text as tokenizer.ggml.pre {name[:80]!r}, which befit does not have; "
            f"it has {', '.join(sorted(SPLITTINGS))}."
        )
    return SPLITTINGS[name]
