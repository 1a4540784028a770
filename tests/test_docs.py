"""The pages, held to the code: every page can be reached, every link and file stands, every command and key exists."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.cli import command_name
from rung.commands import COMMANDS
from rung.config import option
from rung.errors import UserError
from rung.schema import leaves

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
FILE = re.compile(
    r"(?<![\w/.-])(?:rung|recipes|benchmarks|tests|docs)/[\w./-]*\.(?:py|md|json|jsonl|ya?ml|txt|png)\b"
)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The relative links of a page: the file and the heading in it that is meant."""
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if not re.match(r"[a-z]+:", target):
            path, _, heading = target.partition("#")
            yield (page.parent / path).resolve() if path else page, heading


def headings(page: Path) -> set[str]:
    """The anchors of a page: its headings in lower case, words joined by dashes, other signs gone."""
    found = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def commands(text: str) -> Iterator[str]:
    """Every command line of rung: lines of code blocks, of which one may hold several, and spans of a sentence."""
    blocks = [line for block in FENCED.findall(text) for line in block.splitlines()[1:-1]]
    blocks += [line for line in FENCED.sub("", text).splitlines() if line.startswith("    ")]
    for line in blocks:
        for part in re.split(r"\s{2,}|\s#\s|\|", line):  # what stands after two spaces is a remark
            if re.match(r"(?:\$ |\S*/)?rung [a-z]", part.strip()):
                yield part.strip().removeprefix("$ ")
    for span in SPAN.findall(FENCED.sub("", text)):
        if re.match(r"rung [a-z]", " ".join(span.split())):
            yield " ".join(span.split())


def wrong(line: str) -> str | None:
    """What rung would say to this command line's name and keys; None if it knows them."""
    words = [word.strip("[]") for word in shlex.split(line, posix=False)][1:]
    try:
        name, rest = command_name([word for word in words if word != "..."])
        if name not in COMMANDS:
            return None  # a family of commands, named as such
        command = COMMANDS[name]
        table = leaves(getattr(importlib.import_module(f"rung.commands.{command.module}"), command.settings))
        for word in rest:
            if word.startswith("--") and word[2:].partition("=")[0] not in ("help", "config"):
                option(word[2:].partition("=")[0], table, name)
    except UserError as error:
        return str(error)
    return None


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), [PAGES[0]]
    while todo:
        page = todo.pop()
        if page.suffix == ".md" and page not in reached and page.is_file():
            reached.add(page)
            todo += [path for path, _ in links(page)]
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page):
    broken = [str(path) for path, _ in links(page) if not path.exists()]
    broken += [f"{path}#{h}" for path, h in links(page) if h and path.exists() and h not in headings(path)]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_that_is_named_exists(page):
    assert [name for name in FILE.findall(page.read_text()) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_and_key_exists(page):
    assert {line: wrong(line) for line in commands(page.read_text()) if wrong(line)} == {}


def test_the_readme_is_a_page_and_names_every_command():
    text = PAGES[0].read_text()
    assert len(text.splitlines()) <= 180
    missing = {name for name in COMMANDS if not re.search(rf"(?:rung |`){name.split()[0]}[` ]", text)}
    assert missing == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Run `rung nothing`.", ["rung nothing"]),
        ("    rung sft --data x      # a remark of `rung y`\n", ["rung sft --data x", "rung y"]),
        ("    rung rollouts A            rung diagnose A\n", ["rung rollouts A", "rung diagnose A"]),
        ("```\n$ rung data\n```\n", ["rung data"]),
        ("the `rung.train` module, rung itself", []),
    ],
)
def test_the_check_itself_finds_commands(text, found):
    assert list(commands(text)) == found


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("rung sft --data a.jsonl --lora.rank 8", True),
        ("rung data", True),
        ("rung sft --no-packing", True),
        ("rung sft --datta a.jsonl", False),
        ("rung data shw a.jsonl", False),
        ("rung teach", False),
    ],
)
def test_the_check_itself_knows_right_from_wrong(line, right):
    assert (wrong(line) is None) == right


def test_the_check_itself_follows_links(tmp_path):
    page = tmp_path.resolve() / "page.md"
    page.write_text(
        "# One, two\n[a](b.md) [c](#one-two) [d](https://x.y)\n```\n# no heading\n[e](f.md)\n```\n"
    )
    assert list(links(page)) == [(page.parent / "b.md", ""), (page, "one-two")]
    assert headings(page) == {"one-two"}
