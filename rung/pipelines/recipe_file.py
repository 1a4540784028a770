"""A recipe: a YAML file of stages, each a rung command with its settings, which name the stages they build on.

    about: SFT on demonstrations, then DPO from there
    values: {model: smollm2-135m}              # said once, read as ${values.model}
    stages:
      demonstrate:
        command: sft                           # any command of rung, its keys as they are below `with`
        with: {data: rows.jsonl, model: "${values.model}", epochs: 2}
      prefer:
        command: dpo
        with:
          model: ${demonstrate.model}
          data: pairs.jsonl
    quick: {demonstrate.steps: 2}              # what `--quick` changes

A reference is `${STAGE.folder}`, `${STAGE.model}`, `${STAGE.rollouts}` or `${STAGE.file}`; text may stand around it.
A stage writes a folder, unless `with: {out: NAME}` or `stdout: NAME` says that it writes one file. `script: FILE.py`
in place of a command runs Python; its keys become `--key value`. `${here}` is the recipe's own folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rung.config import Given, convert, pairs
from rung.errors import UserError
from rung.keys import known
from rung.pipelines.recipe_yaml import (
    REFERENCE,
    Changes,
    at,
    changes_of,
    compose,
    expand,
    near,
    read_override,
    read_values,
    sections,
    words_of,
)
from rung.schema import build, leaves

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
MEMBERS = ("folder", "model", "rollouts", "file")
RESERVED = ("values", "here", "pipeline")
OWN_KEYS = ("resume",)  # the runner's business

Replace = Callable[[str, str], str]  # (stage, member) -> what stands in its place
SettingsOf = Callable[[str], type]  # a command's name -> its settings class; raises UserError for none


@dataclass(frozen=True)
class Stage:
    """One stage with everything filled in but the references to other stages."""

    name: str
    command: str  # as typed after `rung`, or the path of a script
    kind: type | None  # the command's settings class; None for a script
    given: Mapping[str, Given]  # dotted key -> words
    file: str  # the one file that it writes, "" for a folder
    stdout: bool  # whether that file is what the command prints
    place: str  # "recipe.yaml:12"

    def references(self) -> Iterator[tuple[str, str, str]]:
        """(stage, member, where it stands) of every reference."""
        for given in self.given.values():
            for word in given.words or ():
                for inside in REFERENCE.findall(word):
                    stage, _, member = inside.partition(".")
                    yield stage, member, given.place

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stage for stage, _, _ in self.references()))

    def has(self, key: str) -> bool:
        """Whether the command has a key of this name."""
        return self.kind is not None and key in leaves(self.kind)

    def words(self, put: Replace) -> dict[str, list[str] | None]:
        """Every key's words with `put` in place of references."""

        def filled(word: str) -> str:
            return REFERENCE.sub(lambda found: put(*found[1].split(".", 1)), word)

        return {
            key: None if given.words is None else [filled(word) for word in given.words]
            for key, given in self.given.items()
        }

    def settings(self, put: Replace, **more: str) -> Any:
        """The command's settings object, `put` in place of references; `more` are keys of ours, such as out."""
        assert self.kind is not None
        table = leaves(self.kind)
        words = self.words(put)
        given = {key: Given(words[key], each.place) for key, each in self.given.items()}
        given |= {key: Given([value], self.place) for key, value in more.items() if key in table}
        values = {key: leaf.default for key, leaf in table.items()}
        values |= {key: convert(table[key], each) for key, each in given.items()}
        missing = [key for key, value in values.items() if value is MISSING]
        if missing:
            raise UserError(f"{self.place}: the stage {self.name} says nothing of {', '.join(missing)}, and "
                            f"`rung {self.command}` needs it")  # fmt: skip
        return build(self.kind, values)


@dataclass(frozen=True)
class Recipe:
    path: Path
    about: str
    stages: tuple[Stage, ...]  # in an order in which they can run

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def read_recipe(
    path: Path, settings_of: SettingsOf, *, quick: bool = False, overrides: Sequence[str] = ()
) -> Recipe:
    """A recipe that holds together: known commands and keys, values of their types, references that lead somewhere.

    `overrides` are `stage.key=value` or `values.name=value`; the value is YAML, so a list is `[a, b]`.
    """
    top = sections(compose(path), path, ("about", "values", "stages", "quick"))
    if "stages" not in top or not isinstance(top["stages"], yaml.MappingNode) or not top["stages"].value:
        raise UserError(f"{path} has no stages. Write `stages:` and below it a name for each.")
    changes = changes_of(top.get("quick"), path) if quick else {}
    if quick and not changes:
        raise UserError(f"{path} has no `quick:` block, so --quick has nothing to change.")
    changes |= dict(read_override(text) for text in overrides)
    values = read_values(top.get("values"), path, changes)
    names = [name.value for name, _ in top["stages"].value]
    for changed, (_, place) in changes.items():
        owner = changed.partition(".")[0]
        if owner not in (*names, "values"):
            raise UserError(f"{place}: there is no stage {owner!r}; {near(owner, [*names, 'values'])}")
    stages = [
        read_stage(name, node, path, settings_of, values, changes) for name, node in top["stages"].value
    ]
    by_name = {stage.name: stage for stage in stages}
    if len(by_name) < len(stages):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: two stages are called {twice}; every stage needs its own name.")
    for stage in stages:
        check(stage, by_name)
    about = top["about"].value.strip() if "about" in top else ""
    return Recipe(path, about, tuple(ordered(stages)))


# ---- one stage ----


def read_stage(
    name_node: yaml.Node,
    node: yaml.Node,
    path: Path,
    settings_of: SettingsOf,
    values: Mapping[str, list[str]],
    changes: Changes,
) -> Stage:
    name, place = name_node.value, at(path, name_node)
    if not NAME.fullmatch(name) or name in RESERVED:
        raise UserError(f"{place}: a stage cannot be called {name!r}; use letters, digits and _, not "
                        f"{', '.join(RESERVED)}")  # fmt: skip
    parts = sections(node, path, ("command", "script", "with", "stdout"), f"the stage {name}")
    if ("command" in parts) == ("script" in parts):
        raise UserError(f"{place}: the stage {name} needs `command:` or `script:`, one of them")
    kind = None
    if "command" in parts:
        command = str(parts["command"].value)
        try:
            kind = settings_of(command)
        except UserError as error:
            raise UserError(f"{at(path, parts['command'])}: {error}") from error
    else:
        command = parts["script"].value.replace("${here}", str(path.parent))
        if not Path(command).is_file():
            raise UserError(f"{at(path, parts['script'])}: there is no script {command}")
    given = given_keys(name, parts.get("with"), path, kind, changes)
    given = {key: replace(each, words=expand(each, values)) for key, each in given.items()}
    for key in OWN_KEYS:
        if key in given:
            raise UserError(f"{given[key].place}: {key} is the pipeline's own; leave it out")
    stdout = str(parts["stdout"].value) if "stdout" in parts else ""
    out = (given.pop("out").words or [""])[0] if "out" in given else ""
    for file in filter(None, (stdout, out)):
        if Path(file).name != file:
            raise UserError(f"{place}: {file} is no plain name; a stage writes in its own folder, and "
                            "out or stdout names a file there")  # fmt: skip
    if stdout and out:
        raise UserError(f"{place}: {name} has both out and stdout; a stage writes one file")
    return Stage(name, command, kind, given, stdout or out, bool(stdout), place)


def given_keys(
    name: str,
    node: yaml.Node | None,
    path: Path,
    kind: type | None,
    changes: Changes,
) -> dict[str, Given]:
    """What `with` and the changes say, under the command's own keys."""
    table = leaves(kind) if kind else {}

    def refuse(node: yaml.Node) -> NoReturn:
        raise UserError(f"{at(path, node)}: a stage has no env block; set it in the shell")

    if node is None:
        node = yaml.MappingNode("tag:yaml.org,2002:map", [])
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{at(path, node)}: `with` is a mapping of the command's keys")
    found: dict[str, Given] = {}
    for dotted, value, line in pairs(node, table, env=refuse):
        place = f"{path}:{line}"
        key = known(dotted, table, f"{place}: {name}").key if kind else dotted.replace("-", "_")
        if key in found:
            raise UserError(f"{place}: {key} is given twice (before at {found[key].place})")
        found[key] = Given(words_of(value, place, table.get(key)), place)
    for dotted, (value, place) in changes.items():
        stage, _, key = dotted.partition(".")
        if stage == name:
            key = known(key, table, place).key if kind else key.replace("-", "_")
            found[key] = Given(words_of(value, place, table.get(key)), place)
    return found


# ---- the whole ----


def check(stage: Stage, by_name: Mapping[str, Stage]) -> None:
    """References lead to stages that write what is asked of them; every value reads as its key's type."""
    for name, member, place in stage.references():
        if not member or member not in MEMBERS:
            raise UserError(
                f"{place}: ${{{name}{'.' + member if member else ''}}} is no reference; write ${{STAGE.MEMBER}} with "
                f"{', '.join(MEMBERS)}, or ${{values.NAME}}"
            )
        if name not in by_name:
            raise UserError(f"{place}: {stage.name} refers to a stage {name!r}, and there is none; "
                            f"{near(name, list(by_name))}")  # fmt: skip
        source = by_name[name]
        if source.kind is not None and not source.stdout and not source.has("out"):
            raise UserError(
                f"{place}: {name} is `rung {source.command}`, which writes to the screen only; give it `stdout: NAME`"
            )
        if member == "file" and not source.file:
            raise UserError(f"{place}: {name} writes a folder, not a file; write ${{{name}.folder}}/NAME, or give "
                            "the stage `out: NAME` if its command writes one file")  # fmt: skip
        if member in ("model", "rollouts") and source.file:
            raise UserError(f"{place}: {name} writes the file {source.file}, so it has no {member}")
    if stage.kind is None:
        return
    settings = stage.settings(lambda name, member: f"{name}.{member}", out="out")
    inputs = {
        key: getattr(settings, key)
        for key in ("data", "env", "models", "runs", "file", "prompt")
        if hasattr(settings, key)
    }
    if inputs and not any(inputs.values()):
        raise UserError(f"{stage.place}: the stage {stage.name} has no input; give it "
                        f"{' or '.join(inputs)} (`rung {stage.command} --help`)")  # fmt: skip


def ordered(stages: Sequence[Stage]) -> Iterator[Stage]:
    """Each after what it needs, otherwise as in the file."""
    waiting, done = list(stages), set[str]()
    while waiting:
        ready = next((stage for stage in waiting if done.issuperset(stage.needs)), None)
        if ready is None:
            raise UserError(circle(waiting))
        waiting.remove(ready)
        done.add(ready.name)
        yield ready


def circle(waiting: Sequence[Stage]) -> str:
    """Each of these needs another of them: follow the needs until a stage comes again."""
    by_name = {stage.name: stage for stage in waiting}
    path = [waiting[0].name]
    while path[-1] not in path[:-1]:
        path.append(next(need for need in by_name[path[-1]].needs if need in by_name))
    path = path[path.index(path[-1]) :]
    place = by_name[path[0]].place
    return (
        f"{place}: the stages need each other in a circle: {' needs '.join(path)}. "
        "A stage can only build on what is there before it; take one of these references out."
    )
