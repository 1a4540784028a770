"""From a command line and a YAML file to one frozen settings object, in milliseconds.

A value comes from the class (the vetted default), from `--config FILE.yaml`, or from the command line, each
beating the one before. Keys are the same everywhere: dotted for nesting, hyphen and underscore alike;
`--lora.rank 8`, `--lora.rank=8` and the bare word `lora.rank=8` mean one thing. A key nobody knows is an
error with a suggestion, never a silence. YAML scalars reach the types as they are written, so `1e-4` is a
number where a number is due and `no` is text where text is due, whatever YAML 1.1 thinks of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rung.errors import UserError
from rung.keys import ALIASES, find, known
from rung.schema import Leaf, build, describe, leaves, method_settings

__all__ = ["ALIASES", "method_settings", "parse", "save", "to_dict"]

Settings = TypeVar("Settings")

YES, NO = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True)
class Given:
    """A value as the user wrote it: the words, or None for an explicit null, and where it stands."""

    words: list[str] | None
    place: str


def parse(settings_class: type[Settings], argv: Sequence[str], prog: str) -> Settings:
    """The settings of a command. Prints help and exits 0 on --help; raises UserError on anything wrong."""
    if "-h" in argv or "--help" in argv:
        show_help(settings_class, prog)
    table = leaves(settings_class)
    argv, config_file = split_config_file(argv)
    given: dict[str, Given] = {}
    if config_file:
        given |= read_file(Path(config_file), table)
    given |= read_command_line(argv, table, prog)
    values = {key: leaf.default for key, leaf in table.items()}
    values |= {key: convert(table[key], value) for key, value in given.items()}
    for key, value in values.items():
        if value is MISSING:
            way = key.upper() if table[key].positional else f"--{key.replace('_', '-')} VALUE"
            raise UserError(f"{prog}: nothing was given for {key} ({describe(table[key].type)}); add {way}")
    return build(settings_class, values)


def show_help(settings_class: type, prog: str) -> None:
    import tyro

    about = (settings_class.__doc__ or "").strip()
    about += "\n\nValues may also come from --config FILE.yaml (the command line wins) or as key=value words."
    markers = (tyro.conf.PositionalMetavarFromFieldName,)
    tyro.cli(settings_class, prog=prog, description=about, args=["--help"], config=markers)


def convert(leaf: Leaf, given: Given) -> Any:
    """The words as the type of the leaf, or an error that names both."""
    if given.words is None:
        if type(None) in typing.get_args(leaf.type):
            return None
        raise UserError(f"{given.place}: {leaf.key} is null, but it needs {describe(leaf.type)}")
    words = given.words
    if "True" in (leaf.spec.choices or ()):
        words = ["True" if w.lower() in YES else "False" if w.lower() in NO else w for w in words]
    allowed = leaf.spec.choices is None or all(word in leaf.spec.choices for word in words)
    if allowed and (not isinstance(leaf.spec.nargs, int) or len(words) == leaf.spec.nargs):
        try:
            return leaf.spec.instance_from_str(words)
        except ValueError:  # a word that does not read as its type: the error below says so
            pass
    near = difflib.get_close_matches(words[0], leaf.spec.choices or (), n=1) if words else []
    hint = f"; did you mean {near[0]}?" if near else ""
    shown = " ".join(given.words) if given.words else "(nothing)"
    raise UserError(f"{given.place}: {leaf.key} is {shown!r}, but it needs {describe(leaf.type)}{hint}")


# ---- the command line ----


def split_config_file(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Take `--config FILE` out of the words."""
    rest, files, words = [], [], iter(argv)
    for word in words:
        if word == "--config":
            files.append(next(words, ""))
        elif word.startswith("--config="):
            files.append(word.partition("=")[2])
        else:
            rest.append(word)
    if len(files) > 1:
        raise UserError(f"--config is given {len(files)} times ({', '.join(files)}); write one file")
    if files == [""]:
        raise UserError("--config needs a file, as in --config run.yaml")
    return rest, files[0] if files else None


def read_command_line(argv: Sequence[str], table: dict[str, Leaf], prog: str) -> dict[str, Given]:
    """Options, `key=value` words and positional arguments. A list given in pieces is gathered."""
    given: dict[str, Given] = {}
    positionals = [leaf for leaf in table.values() if leaf.positional]
    words = list(argv)

    def put(leaf: Leaf, values: list[str], place: str) -> None:
        before = given[leaf.key].words if leaf.key in given and leaf.spec.nargs == "*" else None
        given[leaf.key] = Given((before or []) + values, place)

    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            leaf, fixed = option(name[2:], table, prog)
            place = f"{prog}: --{name[2:]}"
            put(leaf, fixed or ([value] if equals else take(leaf, words, table)), place)
        elif equals and (find(name, table) or (not positionals and re.fullmatch(r"[A-Za-z_][\w.-]*", name))):
            put(known(name, table, prog), [value], f"{prog}: {name}")
        elif word.startswith("-") and re.match(r"-[A-Za-z]", word):
            raise UserError(f"{prog}: unknown option {word!r}; options are written --key VALUE")
        elif positionals:
            put(positionals[0], [word], prog)
            if positionals[0].spec.nargs != "*":
                positionals.pop(0)
        else:
            raise UserError(f"{prog}: {word!r} belongs to no key; write --key {word} or key={word}")
    return given


def option(name: str, table: dict[str, Leaf], prog: str) -> tuple[Leaf, list[str] | None]:
    """The leaf an option means and, for `--no-flag`, its value."""
    leaf = find(name, table)
    if leaf is None and re.match("no[-_]", name):
        leaf = find(name[3:], table)
        if leaf is not None and leaf.type is bool:
            return leaf, ["False"]
    return known(name, table, f"{prog}: --{name}") if leaf is None else leaf, None


def take(leaf: Leaf, words: list[str], table: dict[str, Leaf]) -> list[str]:
    """The values after an option, removed from the front of `words`."""
    if leaf.type is bool:
        return [words.pop(0)] if words and words[0].lower() in (*YES, *NO) else ["True"]
    limit = leaf.spec.nargs if isinstance(leaf.spec.nargs, int) else len(words)
    taken: list[str] = []
    while words and len(taken) < limit and not words[0].startswith("--"):
        # A list ends where a key=value word for a known key begins; a single value may contain anything.
        if (
            not isinstance(leaf.spec.nargs, int)
            and find(words[0].partition("=")[0], table)
            and "=" in words[0]
        ):
            break
        taken.append(words.pop(0))
    return taken


# ---- the file ----


def read_file(path: Path, table: dict[str, Leaf]) -> dict[str, Given]:
    """The values of a YAML file, or of a run's config.json. Its `env:` block sets environment defaults."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: is not UTF-8 text ({error}); save it as YAML text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{at}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}:1: a config file is a mapping of key: value lines")
    sections = {key.value: value for key, value in root.value}
    if path.suffix == ".json" and isinstance(sections.get("settings"), yaml.MappingNode):
        root = sections["settings"]  # a run folder's config.json: the run can be repeated from it
    given: dict[str, Given] = {}
    for name, node, line in pairs(root, table, env=lambda node: set_environment(node, path)):
        place = f"{path}:{line}"
        leaf = known(name, table, place)
        if leaf.key in given:
            raise UserError(f"{place}: {leaf.key} is given twice (before at {given[leaf.key].place})")
        given[leaf.key] = Given(node_words(node, place, leaf), place)
    return given


def pairs(
    node: yaml.MappingNode, table: dict[str, Leaf], env: Callable[[yaml.Node], None], prefix: str = ""
) -> Iterator[tuple[str, yaml.Node, int]]:
    """(dotted name, value node, line) of every value in a mapping."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        leaf = find(name, table)
        if name == "env" and leaf is None:
            env(value)
        elif isinstance(value, yaml.MappingNode) and leaf is None:  # an empty section yields nothing
            yield from pairs(value, table, env, name + ".")
        else:
            yield name, value, key.start_mark.line + 1


def node_words(node: yaml.Node, place: str, leaf: Leaf) -> list[str] | None:
    """A YAML value as the words one would write on the command line."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag.endswith(":null") else [scalar_word(node)]
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        if typing.get_origin(leaf.type) is not dict:
            raise UserError(f"{place}: {leaf.key} is a mapping, but it needs {describe(leaf.type)}")
        parts = [part for pair in node.value for part in pair]
    if leaf.spec.nargs == 1 or not all(isinstance(part, yaml.ScalarNode) for part in parts):
        raise UserError(f"{place}: {leaf.key} is a list, but it needs {describe(leaf.type)}")
    return [scalar_word(part) for part in parts]


def scalar_word(node: yaml.ScalarNode) -> str:
    """A scalar as it is written, except for YAML's own spelling of the infinite: `.inf` and `.nan`."""
    is_float = node.tag.endswith(":float")
    return (
        re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", node.value, flags=re.IGNORECASE) if is_float else node.value
    )


def set_environment(node: yaml.Node, path: Path) -> None:
    """The `env:` block: defaults only, so that the shell's own environment wins."""
    place = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode) or not all(
        isinstance(v, yaml.ScalarNode) for _, v in node.value
    ):
        raise UserError(f"{place}: env is a mapping of NAME: value lines")
    for key, value in node.value:
        os.environ.setdefault(key.value, value.value)


# ---- and back ----


def to_dict(settings: Any) -> Any:
    """Plain dicts, lists and scalars, as JSON and YAML hold them."""
    if dataclasses.is_dataclass(settings):
        return {f.name: to_dict(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, list | tuple):
        return [to_dict(entry) for entry in settings]
    if isinstance(settings, dict):
        return {str(key): to_dict(value) for key, value in settings.items()}
    return str(settings) if isinstance(settings, Path) else settings


def save(settings: Any, path: Path) -> None:
    """Write the resolved settings as YAML (or JSON, by the suffix) that `--config` reads back to the same."""
    values = to_dict(settings)
    text = json.dumps(values, indent=2) if path.suffix == ".json" else yaml.safe_dump(values, sort_keys=False)
    path.write_text(text + ("\n" if path.suffix == ".json" else ""), encoding="utf-8")
