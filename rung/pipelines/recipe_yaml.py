"""The YAML of a recipe: mappings with known keys, `${values.x}`, and the changes of `quick:` and `--set`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rung.config import Given, node_words, scalar_word
from rung.errors import UserError
from rung.schema import Leaf

REFERENCE = re.compile(r"\$\{([^}]*)\}")

Changes = Mapping[str, tuple[yaml.Node, str]]  # dotted name -> (value, where it was said)


def compose(path: Path) -> yaml.Node:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} cannot be read ({error}); give a YAML file of stages") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        hint = ""
        if "${" in line and ("[" in line or "{" in line.replace("${", "")):
            hint = (
                '. Within [ ] and { } YAML reads braces itself: quote a reference there, as in ["${a.model}"]'
            )
        raise UserError(f"{path}{at}: not valid YAML ({getattr(error, 'problem', error)}){hint}") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: a recipe is a mapping with `stages:`; docs/pipelines.md shows one")
    return root


def sections(node: yaml.Node, path: Path, allowed: Sequence[str], what: str = "") -> dict[str, yaml.Node]:
    """The keys of a mapping that may hold only certain ones."""
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{at(path, node)}: {what or 'a recipe'} is a mapping of key: value lines")
    for key, _ in node.value:
        if key.value not in allowed:
            hint = near(key.value, allowed)
            raise UserError(f"{at(path, key)}: {what or 'a recipe'} has no key {key.value!r}; {hint}")
    return {key.value: value for key, value in node.value}


def changes_of(node: yaml.Node | None, path: Path) -> dict[str, tuple[yaml.Node, str]]:
    """`stage.key: value` lines: dotted name -> (value, where)."""
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{at(path, node)}: quick is a mapping of stage.key: value lines")
    return {key.value: (value, at(path, key)) for key, value in node.value}


def read_override(text: str) -> tuple[str, tuple[yaml.Node, str]]:
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise UserError(f"--set {text}: write stage.key=value, for example sft.steps=10 or values.model=NAME")
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: {value!r} is not a YAML value; quote it") from error
    return name, (node or yaml.ScalarNode("tag:yaml.org,2002:str", ""), f"--set {text}")


def read_values(node: yaml.Node | None, path: Path, changes: Changes) -> dict[str, list[str]]:
    """Name -> words: one for a scalar, one for each entry of a list."""
    found: dict[str, list[str]] = {"": [str(path.parent)]}  # "" is ${here}
    if node is None:
        node = yaml.MappingNode("tag:yaml.org,2002:map", [])
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{at(path, node)}: values is a mapping of name: value lines")
    own = {key.value: (value, at(path, key)) for key, value in node.value}
    changed = {
        name.removeprefix("values."): change for name, change in changes.items() if name.startswith("values.")
    }
    for name, (_, place) in changed.items():
        if name not in own:
            raise UserError(f"{place}: there is no value {name!r}; {near(name, list(own))}")
    for name, (value, place) in (own | changed).items():
        entries = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(entry, yaml.ScalarNode) for entry in entries):
            raise UserError(f"{place}: the value {name} is one word or a list of words")
        found[name] = [scalar_word(entry).replace("${here}", str(path.parent)) for entry in entries]
    return found


def words_of(node: yaml.Node, place: str, leaf: Leaf | None) -> list[str] | None:
    if leaf is not None and not whole_value(node):
        return node_words(node, place, leaf)
    entries: list[Any] = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [scalar_word(entry) for entry in entries]


def whole_value(node: yaml.Node) -> bool:
    """A lone reference to a value may stand for a list, whatever the key's type says of one word."""
    return isinstance(node, yaml.ScalarNode) and node.value.startswith("${values.")


def expand(given: Given, values: Mapping[str, list[str]]) -> list[str] | None:
    """The words with `${values.x}` and `${here}` filled in; a list where the value is one."""
    if given.words is None:
        return None
    found: list[str] = []
    for word in given.words:
        alone = REFERENCE.fullmatch(word)
        if alone and alone[1].startswith("values."):
            found += value_of(alone[1], values, given.place)
            continue

        def filled(match: re.Match[str]) -> str:
            inside = match[1]
            if inside == "here":
                return values[""][0]
            if not inside.startswith("values."):
                return match[0]
            words = value_of(inside, values, given.place)
            if len(words) != 1:
                raise UserError(f"{given.place}: ${{{inside}}} is a list, and stands within a text")
            return words[0]

        found.append(REFERENCE.sub(filled, word))
    return found


def value_of(inside: str, values: Mapping[str, list[str]], place: str) -> list[str]:
    name = inside.removeprefix("values.")
    if not name or name not in values:
        raise UserError(f"{place}: there is no value {name!r}; {near(name, [n for n in values if n])}")
    return values[name]


def at(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}" if node.start_mark else str(path)


def near(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
