"""Makes the helpers beside the tests importable, and registers the marker of the comparison with original files."""

import sys
from pathlib import Path

import pytest

from befit import tokenizer
from befit.tokenizer import Tokenizer
from befit.weights.gguf import GGUFFile

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "oracle: compares with original tokeniser files; BEFIT_TEST_TOKENIZERS names their folder"
    )


def _load(path: Path) -> Tokenizer:
    with GGUFFile.open(path) as file:
        return tokenizer.load(file.metadata)


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return _load(smollm2_path)


@pytest.fixture(scope="session")
def qwen(qwen_path: Path) -> Tokenizer:
    return _load(qwen_path)
