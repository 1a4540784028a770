"""Recipes as written: references, order, values, changes, and every way in which one does not hold together."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import tyro

from rung.errors import UserError
from rung.pipelines.recipe_file import read_recipe
from rung.pipelines.stage_key import Digests, identity, paths_in


@dataclass(frozen=True)
class Rate:
    peak: float = 1e-3


@dataclass(frozen=True)
class Train:
    data: tuple[str, ...] = ()
    model: str = "small"
    out: str = ""
    resume: str = ""
    steps: int = 5
    save_every: int = 0
    optimizer: Rate = field(default_factory=Rate)


@dataclass(frozen=True)
class Measure:
    models: tyro.conf.Positional[tuple[str, ...]]
    env: str = ""
    out: str = ""


@dataclass(frozen=True)
class Talk:
    model: tyro.conf.Positional[str]
    prompt: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sort:
    data: tuple[str, ...] = ()
    by: Literal["length", "score"] = "length"


KINDS = {"train": Train, "measure": Measure, "talk": Talk, "sort": Sort}


def settings_of(name: str) -> type:
    if name not in KINDS:
        raise UserError(f"there is no command `{name}`")
    return KINDS[name]


TWO = """
about: two stages
values: {size: 3, names: [a, b]}
stages:
  second:
    command: train
    with: {model: "${first.model}", data: ["${first.folder}/rows", "x:0.5"], steps: "${values.size}"}
  first:
    command: train
    with: {data: seen, optimizer.peak: 1e-4}
quick: {values.size: 1, first.steps: 2}
"""


def read(tmp_path: Path, text: str, **more):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return read_recipe(file, settings_of, **more)


def put(stage: str, member: str) -> str:
    return f"/{stage}/{member}"


def test_stages_stand_in_the_order_of_their_needs_and_read_their_keys(tmp_path):
    recipe = read(tmp_path, TWO)
    assert [stage.name for stage in recipe.stages] == ["first", "second"]
    assert recipe.stage("second").needs == ("first",)
    assert recipe.stage("second").settings(put) == Train(
        data=("/first/folder/rows", "x:0.5"), model="/first/model", steps=3
    )
    assert recipe.stage("first").settings(put, out="o") == Train(
        data=("seen",), out="o", optimizer=Rate(1e-4)
    )


def test_stages_that_need_nothing_keep_the_order_of_the_file(tmp_path):
    lines = "".join(f"  {name}: {{command: train, with: {{data: d}}}}\n" for name in "zayb")
    assert [stage.name for stage in read(tmp_path, "stages:\n" + lines).stages] == list("zayb")


def test_quick_and_overrides_change_values_and_keys_and_overrides_win(tmp_path):
    quick = read(tmp_path, TWO, quick=True)
    assert (quick.stage("first").settings(put).steps, quick.stage("second").settings(put).steps) == (2, 1)
    both = read(tmp_path, TWO, quick=True, overrides=["first.steps=9", "second.data=[p, q]"])
    assert both.stage("first").settings(put).steps == 9
    assert both.stage("second").settings(put).data == ("p", "q")


def test_a_key_may_be_spelt_as_on_a_command_line(tmp_path):
    dashed = read(tmp_path, TWO, overrides=["first.save-every=4"])
    assert dashed.stage("first").settings(put).save_every == 4
    (tmp_path / "s.py").touch()
    text = "values: {the-rows: a}\nstages: {s: {script: '${here}/s.py', with: {a-b: '${values.the-rows}', c_d: 1}}}"
    changed = read(tmp_path, text, overrides=["values.the-rows=e", "s.c-d=2"]).stage("s")
    assert changed.words(put) == {"a_b": ["e"], "c_d": ["2"]}
    assert read(tmp_path, text, overrides=["s.a-b=f"]).stage("s").words(put) == {"a_b": ["f"], "c_d": ["1"]}


def test_one_input_of_several_is_enough(tmp_path):
    assert read(tmp_path, "stages: {a: {command: measure, with: {models: m}}}").stage("a")


def test_a_value_that_is_a_list_fills_a_list(tmp_path):
    recipe = read(tmp_path, "values: {n: [a, b]}\nstages: {s: {command: train, with: {data: '${values.n}'}}}")
    assert recipe.stage("s").settings(put).data == ("a", "b")


def test_here_is_the_recipes_folder(tmp_path):
    recipe = read(tmp_path, "stages: {s: {command: train, with: {data: '${here}/x'}}}")
    assert recipe.stage("s").settings(put).data == (f"{tmp_path}/x",)
    (tmp_path / "s.py").touch()
    text = (
        "values: {rows: '${here}/x'}\nstages: {s: {script: '${here}/s.py', with: {data: '${values.rows}'}}}"
    )
    stage = read(tmp_path, text).stage("s")
    assert (stage.command, stage.words(put)) == (f"{tmp_path}/s.py", {"data": [f"{tmp_path}/x"]})


def test_stdout_and_out_make_a_file(tmp_path):
    text = "stages:\n  a: {command: talk, stdout: said.jsonl, with: {model: m, prompt: hi}}\n"
    text += "  b: {command: train, with: {data: '${a.file}'}}"
    recipe = read(tmp_path, text)
    assert (recipe.stage("a").file, recipe.stage("a").stdout) == ("said.jsonl", True)
    assert recipe.stage("b").settings(put).data == ("/a/file",)


STAGE = "stages:\n  a: {command: train, with: {data: d}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about: x", "no stages"),
        ("stages: {}", "no stages"),
        ("- a", "a recipe is a mapping"),
        ("stagse: {}", "no key 'stagse'; did you mean stages"),
        ("stages: {a: {command: trian}}", "recipe.yaml:1: there is no command `trian`"),
        ("stages: {a: {with: {}}}", "needs `command:` or `script:`"),
        ("stages: {a: {command: train, script: x.py}}", "needs `command:` or `script:`, one of them"),
        ("stages: {a: {command: train, stdout: s.txt, with: {data: d, out: w.txt}}}", "has both out and stdout"),
        ("stages: {a: {command: train, with: {data: d, optimizer.peak: 1, optimizer: {peak: 2}}}}", "given twice"),
        ("stages: {a: {command: train, wiht: {}}}", "no key 'wiht'; did you mean with"),
        ("stages: {a: {script: nowhere.py}}", "there is no script nowhere.py"),
        ("stages: {a: {command: train, with: {data: d, stesp: 3}}}", "unknown key 'stesp'; did you mean steps"),
        ("stages: {a: {command: train, with: {data: d, steps: many}}}", "steps is 'many', but it needs a whole number"),
        ("stages: {a: {command: train, with: {data: d, resume: x}}}", "resume is the pipeline's own"),
        ("stages: {a: {command: train, with: {data: d, out: b/c}}}", "b/c is no plain name"),
        ("stages: {pipeline: {command: train, with: {data: d}}}", "cannot be called 'pipeline'"),
        ("stages: {a b: {command: train, with: {data: d}}}", "cannot be called 'a b'"),
        ("stages: {a: {command: train}}", "the stage a has no input; give it data"),
        ("stages: {a: {command: talk, with: {prompt: p}}}", "says nothing of model, and `rung talk` needs it"),
        (STAGE + "  a: {command: train, with: {data: e}}", "two stages are called a"),
        (STAGE + "  b: {command: train, with: {data: '${c.file}'}}", "refers to a stage 'c', and there is none"),
        (STAGE + "  b: {command: train, with: {data: '${a}'}}", "${a} is no reference"),
        (STAGE + "  b: {command: train, with: {data: '${a.weights}'}}", "${a.weights} is no reference"),
        (STAGE + "  b: {command: train, with: {data: '${a.file}'}}", "a writes a folder, not a file"),
        (STAGE + "  b: {command: train, with: {data: '${values.x}'}}", "no value 'x'"),
        (STAGE + "  t: {command: talk, with: {model: m, prompt: p}}\n  b: {command: train, with: {data: '${t.file}'}}",
         "writes to the screen only"),
        (STAGE + "  f: {command: train, with: {data: d, out: w.jsonl}}\n"
         "  b: {command: train, with: {data: d, model: '${f.model}'}}", "it has no model"),
        (STAGE + "  f: {command: train, with: {data: d, out: w.jsonl}}\n"
         "  b: {command: train, with: {data: d, model: '${f.rollouts}'}}", "it has no rollouts"),
        ("stages: {a: {command: train, with: {data: d, env: {SOME: x}}}}", "a stage has no env block"),
        ("values: {v: [1, 2]}\nstages: {a: {command: train, with: {data: 'x${values.v}'}}}", "is a list"),
        ("stages:\n  a:\n    command: train\n    with:\n      data: [${b.file}, x]", "quote a reference there"),
    ],
)  # fmt: skip
def test_what_does_not_hold_together_is_said_with_its_place(tmp_path, text, said):
    with pytest.raises(UserError, match=r"recipe\.yaml") as error:
        read(tmp_path, text)
    assert said in str(error.value)


def test_a_circle_is_named_stage_by_stage(tmp_path):
    stages = {
        "start": "d",
        "a": "${c.folder}",
        "b": "${a.folder}",
        "c": "${b.folder}",
        "after": "${c.folder}",
    }
    lines = [f"  {name}: {{command: train, with: {{data: '{data}'}}}}" for name, data in stages.items()]
    with pytest.raises(UserError, match="a needs c needs b needs a") as error:
        read(tmp_path, "stages:\n" + "\n".join(lines))
    assert "recipe.yaml:3" in str(error.value)
    with pytest.raises(UserError, match="s needs s"):
        read(tmp_path, "stages: {s: {command: train, with: {data: '${s.folder}'}}}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps=3", "write stage.key=value"),
        ("first.steps", "write stage.key=value"),
        ("frist.steps=3", "there is no stage 'frist'; did you mean first"),
        ("first.stesp=3", "unknown key 'stesp'"),
        ("values.sise=3", "there is no value 'sise'; did you mean size"),
        ("first.steps=[", "is not a YAML value"),
    ],
)
def test_a_change_that_changes_nothing_is_an_error(tmp_path, override, said):
    with pytest.raises(UserError, match="--set") as error:
        read(tmp_path, TWO, overrides=[override])
    assert said in str(error.value)


def test_quick_without_a_quick_block_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no `quick:` block"):
        read(tmp_path, STAGE, quick=True)


# ---- keys ----


def keys(tmp_path, text=TWO, digests=None, **more):
    found: dict[str, str] = {}
    for stage in read(tmp_path, text, **more).stages:
        found[stage.name] = identity(stage, found, digests or Digests()).key
    return found


CHAIN = """
stages:
  a: {command: train, with: {data: DATA}}
  b: {command: train, with: {data: d, model: "${a.model}"}}
  c: {command: train, with: {data: e}}
"""


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("a.steps=6", {"a", "b"}),
        ("b.steps=6", {"b"}),
        ("c.optimizer.peak=2e-3", {"c"}),
        ("a.steps=5", set()),  # the default, said aloud
        ("a.optimizer.peak=0.001", set()),
        ("a.save_every=1", set()),
    ],
)
def test_a_change_reaches_its_stage_and_what_builds_on_it_and_nothing_else(tmp_path, override, changed):
    before, after = keys(tmp_path, CHAIN), keys(tmp_path, CHAIN, overrides=[override])
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_data_file_counts_by_its_content(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("one")
    text = CHAIN.replace("DATA", f"{data}:0.5")
    before = keys(tmp_path, text)
    data.touch()
    assert keys(tmp_path, text) == before
    data.write_text("two")
    after = keys(tmp_path, text)
    assert {name for name in before if before[name] != after[name]} == {"a", "b"}


def test_a_word_that_chooses_among_words_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "length").mkdir()
    text = "stages: {a: {command: sort, with: {data: d, by: length}}}"
    before = keys(tmp_path, text)
    (tmp_path / "length" / "x").touch()
    assert keys(tmp_path, text) == before
    text = text.replace("data: d", "data: length")
    before = keys(tmp_path, text)
    (tmp_path / "length" / "y").touch()
    assert keys(tmp_path, text) != before


def test_the_versions_that_count_are_those_of_what_computes(tmp_path, monkeypatch):
    found = {"rung": "1", "torch": "1", "transformers": "1", "tokenizers": "1", "numpy": "1", "python": "1"}

    def of(**changed):
        monkeypatch.setattr("rung.pipelines.stage_key.versions", lambda: found | changed)
        return keys(tmp_path, CHAIN)

    before = of()
    assert of(numpy="2", python="2") == before
    for name in ("rung", "torch", "transformers", "tokenizers"):
        assert not set(of(**{name: "2"}).values()) & set(before.values())


def test_another_command_with_the_same_settings_is_another_stage(tmp_path):
    [stage] = read(tmp_path, STAGE).stages
    other = replace(stage, command="train more")
    assert identity(stage, {}, Digests()).key != identity(other, {}, Digests()).key


def test_another_name_for_the_file_is_another_stage(tmp_path):
    text = "stages:\n  a: {command: talk, stdout: NAME, with: {model: m, prompt: hi}}\n"
    before, after = (keys(tmp_path, text.replace("NAME", name)) for name in ("said.jsonl", "told.jsonl"))
    assert before != after


def test_the_place_of_the_pipeline_and_the_order_of_keys_do_not_count(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    swapped = CHAIN.replace('{data: d, model: "${a.model}"}', '{model: "${a.model}", data: d}')
    assert keys(tmp_path / "x", CHAIN) == keys(tmp_path / "y", swapped)


def test_a_data_file_that_is_missing_is_said_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"a reads gone\.jsonl, and there is no such file"):
        keys(tmp_path, CHAIN.replace("DATA", "gone.jsonl:0.5"))
    keys(tmp_path, CHAIN.replace("DATA", "https://there/gone.jsonl"))  # an address is for the stage to ask


def test_files_are_found_within_specifications(tmp_path):
    rows, reward = tmp_path / "rows.jsonl", tmp_path / "reward.py"
    rows.touch()
    reward.touch()
    assert list(paths_in(f"rows:{rows}?format=tags=0.7,countdown=0.3")) == [rows]
    assert list(paths_in(f"{reward}:mine")) == [reward]
    assert list(paths_in(f"{rows}:2,{reward}:f")) == [rows, reward]
    assert list(paths_in("a free text")) == list(paths_in(".")) == list(paths_in("")) == []


def test_a_run_counts_by_its_latest_checkpoint(tmp_path):
    for step in (1, 2):
        folder = tmp_path / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(str(step))
    (tmp_path / "LATEST").write_text("step-2\n")
    digests = Digests()
    before = digests.of(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("more")
    assert digests.of(tmp_path) == before
    (tmp_path / "LATEST").write_text("step-1\n")
    assert digests.of(tmp_path) != before


def test_a_folder_counts_by_its_files_names_and_bytes_and_not_by_what_python_leaves(tmp_path):
    (tmp_path / "a").write_text("one")
    before = Digests().of(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert Digests().of(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert Digests().of(tmp_path) != before


def test_digests_are_remembered_until_a_file_changes(tmp_path):
    file, memory = tmp_path / "f", tmp_path / "digests.json"
    file.write_text("one")
    digests = Digests(memory)
    first = digests.of(file)
    digests.save()
    again = Digests(memory)
    assert again.known and again.of(file) == first
    file.write_text("three")
    assert again.of(file) == Digests().of(file) != first
    before = again.of(file)
    file.write_text("fives")  # as long as before, at another time
    os.utime(file, ns=(1, 1))
    assert again.of(file) == Digests().of(file) != before
