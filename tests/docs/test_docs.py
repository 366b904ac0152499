"""The documents agree with the code and with each other."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from befit import errors
from befit.config import EngineOptions
from support import compatibility

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])


def text_files() -> Iterator[tuple[Path, str]]:
    """Every text file of the repository: what git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def classes(base: type[errors.BefitError]) -> Iterator[type[errors.BefitError]]:
    """An error and all its kinds."""
    yield base
    for kind in base.__subclasses__():
        yield from classes(kind)


def test_the_command_line_page_is_what_help_says() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert page.split() == module.render().split(), "run: python docs/generate_cli.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name} links to {link}"


def test_every_page_is_reached_from_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"({page.name})" not in index] == []


def test_every_engine_option_is_documented() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    options = {field.name for field in dataclasses.fields(EngineOptions)}
    assert {name for name in documented if name.islower()} == options


def test_every_environment_variable_is_documented() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(BEFIT_\w+)` \|", page, re.MULTILINE))
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "native").rglob("*.cpp")]
    read = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\(|envvar=)\s*["'](BEFIT_\w+)""")
    used = {name for path in sources for name in read.findall(path.read_text(encoding="utf-8"))}
    assert documented == used


def test_every_error_code_is_documented() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \|", page, re.MULTILINE))
    kinds = [kind for kind in classes(errors.BefitError) if kind.__module__ == errors.__name__]
    assert rows == {(kind.code, str(kind.status), kind.__name__) for kind in kinds}


def test_every_dependency_is_documented() -> None:
    page = (DOCS / "dependencies.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = re.findall(r'^  "([a-z][a-z0-9-]*)>=', project, re.MULTILINE)
    assert len(required) > 10
    assert [name for name in required if f"`{name}`" not in page] == []


def test_the_architecture_names_files_that_exist() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    tree = page.split("```text")[2].split("```")[0]
    room = Path()
    named = 0
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        first = line.split()[0] if line.strip() else ""
        if first.endswith("/") and indent <= 2:
            room = Path(first) if indent == 0 else Path("src/befit" if room.parts[0] == "src" else "native") / first
            assert (ROOT / room).is_dir(), room
        elif first.endswith("/"):
            assert (ROOT / room / first).is_dir(), room / first
        for name in re.findall(r"(?<![/\w])\w+\.(?:py|cpp)\b", line):
            here = ROOT / ("src/befit" if indent == 2 and not first.endswith("/") else room)
            assert (here / name).exists(), here / name
            named += 1
    assert named > 30


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    # A made-up path in a test is none of ours.
    private = re.compile(r"(?<!\w)/" + r"work/|(?<!\w)/" + r"root/(?!path)|/\." + "library", re.IGNORECASE)
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path, text in text_files() for match in private.finditer(text)]
    assert found == []


def test_the_readme_begins_with_the_two_commands_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    first = blocks[0].splitlines()
    second = blocks[1].splitlines()
    assert len(first) == len(second) == 1
    assert "befit run" in first[0]
    assert second[0].endswith("pytest")
    assert "sed -n '/^```sh$/,/^```$/p' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_row_of_compatibility_names_a_test() -> None:
    rows = compatibility.read(compatibility.PAGE.read_text(encoding="utf-8"))
    assert {client for client, _, _ in rows} == {*compatibility.AGENTS.values(), compatibility.EDITORS}
    assert [test for _, _, test in rows if not compatibility.exists(test)] == []
    assert compatibility.render(rows) in compatibility.PAGE.read_text(encoding="utf-8"), "it is written by a run"
