"""Settings from the class, the file and the command line, and what is said to each kind of mistake."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro
from hypothesis import example, given
from hypothesis import strategies as st

from rung.config import parse, save, to_dict
from rung.errors import UserError
from rung.keys import ALIASES
from rung.schema import comment_on, leaves, method_settings


@dataclass(frozen=True)
class Adapter:
    rank: int = 0
    """Rank of the adapters."""
    alpha: float = 32.0  # the "scale" # of it
    rank_stabilised: bool = False


@dataclass(frozen=True)
class Training:
    """A settings class with one of everything."""

    model: tyro.conf.Positional[str]
    # where the rows are,
    # one or more files
    data: tuple[str, ...] = ()
    learning_rate: float = 1e-5
    schedule: Literal["constant", "cosine", "wsd"] = "cosine"
    packing: bool = True
    out: Path | None = None
    clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    weights: dict[str, float] = field(default_factory=dict)
    note: str = ""
    seed: int = 0
    lora: Adapter = field(default_factory=lambda: Adapter(rank=4))


def read(*words: str) -> Training:
    return parse(Training, ["smol", *words], "rung train")


def from_yaml(tmp_path: Path, text: str, *words: str) -> Training:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return read("--config", str(path), *words)


def test_defaults_include_those_a_field_gives_to_its_section():
    assert read() == Training(model="smol")
    assert read().lora.rank == 4


@pytest.mark.parametrize(
    "words",
    [
        ["--lora.rank", "8"],
        ["--lora.rank=8"],
        ["lora.rank=8"],
        ["lora_r=8"],
        ["--lora-r", "8"],
        ["--lora.rank", "2", "lora.rank=8"],  # the last one counts
    ],
)
def test_ways_to_write_one_value(words):
    assert read(*words) == Training(model="smol", lora=Adapter(rank=8))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--learning-rate", "1e-4"], {"learning_rate": 1e-4}),
        (["--learning_rate=1e-4"], {"learning_rate": 1e-4}),
        (["--data", "a.jsonl", "b.jsonl", "seed=3"], {"data": ("a.jsonl", "b.jsonl"), "seed": 3}),
        (
            ["--data", "a.jsonl", "--seed", "-1", "--data", "b.jsonl"],
            {"data": ("a.jsonl", "b.jsonl"), "seed": -1},
        ),
        (["--no-packing"], {"packing": False}),
        (["--packing", "false", "--seed", "1"], {"packing": False, "seed": 1}),
        (["packing=no"], {"packing": False}),
        (["--packing"], {"packing": True}),
        (["--betas", "0.8", "0.9"], {"betas": (0.8, 0.9)}),
        (["--clip", "None"], {"clip": None}),
        (["--out", "runs/a"], {"out": Path("runs/a")}),
        (["--note", "seed=9"], {"note": "seed=9"}),  # the value of an option is never an override
        (["--note=--x"], {"note": "--x"}),
        (["--weights", "a", "2", "b", "0.5"], {"weights": {"a": 2.0, "b": 0.5}}),
    ],
)
def test_command_line_values(words, expected):
    assert read(*words) == Training(model="smol", **expected)


def test_file_lies_between_class_and_command_line(tmp_path):
    text = "learning_rate: 1e-4\nlora:\n  rank: 8\n  alpha: 1\nseed: 5\n"
    got = from_yaml(tmp_path, text, "--lora.rank", "16")
    assert got == Training(model="smol", learning_rate=1e-4, seed=5, lora=Adapter(rank=16, alpha=1.0))


def test_yaml_words_keep_their_spelling(tmp_path):
    """YAML 1.1 reads `no` as false, 1e-4 as text and 010 as eight; the type of the key decides instead."""
    got = from_yaml(
        tmp_path,
        "note: no\nlearning-rate: 1e-4\nseed: 010\npacking: off\nclip: null\nout: ~\nlora.rank: 3\n",
    )
    assert (got.note, got.learning_rate, got.seed, got.packing) == ("no", 1e-4, 10, False)
    assert (got.clip, got.out, got.lora.rank) == (None, None, 3)


def test_yaml_lists_mappings_and_empty_file(tmp_path):
    got = from_yaml(tmp_path, "data: [a, b]\nbetas: [0.5, 0.6]\nweights:\n  a: 2\n  b: 1e-1\n")
    assert (got.data, got.betas, got.weights) == (("a", "b"), (0.5, 0.6), {"a": 2.0, "b": 0.1})
    assert from_yaml(tmp_path, "") == Training(model="smol")


def test_env_block_sets_defaults_only(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_TEST_KEPT", "shell")
    monkeypatch.delenv("RUNG_TEST_NEW", raising=False)
    from_yaml(tmp_path, "env:\n  RUNG_TEST_KEPT: file\n  RUNG_TEST_NEW: 1\n")
    assert (os.environ["RUNG_TEST_KEPT"], os.environ.pop("RUNG_TEST_NEW")) == ("shell", "1")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--lerning-rate", "1"], ["lerning-rate", "did you mean learning_rate?"]),
        (["lerning_rate=1"], ["lerning_rate", "learning_rate?"]),
        (["--rank", "1"], ["rank", "did you mean lora.rank"]),
        (["--lora.rnk", "1"], ["did you mean lora.rank?"]),  # once, though aliases look alike too
        (["--lora", "8"], ["section", "lora.rank", "lora.alpha"]),
        (["--lora.rank", "x"], ["--lora.rank", "'x'", "a whole number"]),
        (["--lora.rank"], ["lora.rank", "(nothing)", "a whole number"]),
        (["--seed", "1.5"], ["seed", "'1.5'", "a whole number"]),
        (["--schedule", "cosin"], ["'cosin'", "constant, cosine, wsd", "did you mean cosine?"]),
        (["--packing=maybe"], ["packing", "'maybe'", "true or false"]),
        (["--clip", "big"], ["'big'", "a number or none"]),
        (["--betas", "0.9"], ["betas", "2 values"]),
        (["--per_device_train_batch_size", "4"], ["micro-batch", "tokens"]),
        (["stray"], ["'stray'"]),
        (["-x"], ["'-x'", "--key VALUE"]),
        (["--config"], ["--config", "file"]),
        (["--config", "a.yaml", "--config=b.yaml"], ["a.yaml", "b.yaml", "one"]),
        (["--config", "/nonexistent/a.yaml"], ["/nonexistent/a.yaml", "No such file"]),
        (["--no-seed"], ["no-seed"]),
    ],
)
def test_mistakes_on_the_command_line_are_named(words, parts):
    with pytest.raises(UserError) as caught:
        read(*words)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed: 1\nlerning_rate: 1\n", ["run.yaml:2", "lerning_rate", "did you mean learning_rate"]),
        ("lora:\n  rank: 1\n  alhpa: 2\n", ["run.yaml:3", "lora.alhpa", "lora.alpha"]),
        ("loar:\n  rank: 1\n", ["run.yaml:2", "loar.rank", "lora.rank"]),
        ("seed: 1\nlora:\n  rank: many\n", ["run.yaml:3", "lora.rank", "'many'", "a whole number"]),
        ("seed: 1\nseed: 2\n", ["run.yaml:2", "seed is given twice", "run.yaml:1"]),
        ("lora_r: 1\nlora:\n  rank: 2\n", ["run.yaml:3", "lora.rank is given twice"]),
        ("seed:\n", ["run.yaml:1", "seed is null", "a whole number"]),
        ("seed: [1]\n", ["run.yaml:1", "seed is a list"]),
        ("seed: {a: 1}\n", ["run.yaml:1", "seed is a mapping"]),
        ("- a\n", ["run.yaml:1", "mapping"]),
        ("seed: 1\n  b: 2\n", ["run.yaml:2", "not valid YAML"]),
        ("env: 3\n", ["run.yaml:1", "env"]),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_line(tmp_path, text, parts):
    with pytest.raises(UserError) as caught:
        from_yaml(tmp_path, text)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_missing_required_value_is_named():
    with pytest.raises(UserError, match=r"model \(text\); add MODEL"):
        parse(Training, ["--seed", "1"], "rung train")


def test_every_key_misspelt_by_one_letter_is_refused():
    for key in leaves(Training):
        for wrong in {key[:i] + "q" + key[i + 1 :] for i in range(len(key)) if key[i] != "."}:
            with pytest.raises(UserError, match="unknown key"):
                read(f"--{wrong}", "1")


def test_aliases_apply_only_where_the_command_has_the_target():
    assert read("--max_grad_norm", "2").clip == 2.0
    with pytest.raises(UserError, match="unknown key 'max_length'"):
        read("--max_length", "2")
    for alias, targets in ALIASES.items():
        assert alias not in targets


@given(
    st.builds(
        Training,
        model=st.text("abc/ :#-'\"\n", min_size=1).filter(lambda text: text != "None"),
        data=st.lists(st.text("ab,: ", min_size=1)).map(tuple),
        learning_rate=st.floats(allow_nan=False),
        schedule=st.sampled_from(["constant", "cosine", "wsd"]),
        packing=st.booleans(),
        out=st.none() | st.just(Path("a/b")),
        clip=st.none() | st.floats(allow_nan=False),
        weights=st.dictionaries(st.text("xyz", min_size=1), st.floats(allow_nan=False)),
        note=st.sampled_from(["", "no", "1e-4", "null", "~", "true", "[a]", "2024-01-01"]),
        seed=st.integers(),
        lora=st.builds(Adapter, rank=st.integers(), alpha=st.floats(allow_nan=False)),
    ),
    st.sampled_from([".yaml", ".json"]),
)
@example(Training(model="smol", learning_rate=1e-05), ".yaml")
def test_saved_settings_read_back_the_same(tmp_path_factory, settings, suffix):
    path = tmp_path_factory.mktemp("saved") / f"settings{suffix}"
    save(settings, path)
    assert parse(Training, ["--config", str(path)], "rung train") == settings


def test_a_run_can_be_repeated_from_its_config_json(tmp_path):
    settings = Training(model="smol", seed=7, out=Path("x"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"settings": to_dict(settings), "versions": {"torch": "2"}}))
    assert parse(Training, ["--config", str(path)], "rung train") == settings


def test_help_of_a_key_is_read_beside_it():
    table = leaves(Training)
    assert table["lora.rank"].help == "Rank of the adapters."
    assert table["lora.alpha"].help == 'the "scale" # of it'
    assert table["data"].help == "where the rows are, one or more files"
    assert table["lora.rank_stabilised"].help == ""
    assert comment_on('x: str = "#a"  # b') == "b"
    assert comment_on('x: str = "#a"') == ""


METHOD = '''
import torch_that_is_not_installed

def other(*, q): ...

def loss(policy, batch, *, beta: float = -0.5, kind: Literal["a", "b"] = "a",
         reference: bool,  # whether a second model speaks
         floor: float | None = None):
    """The idea.

    beta: strength of the pull
        towards the reference
    kind: which form
    """
'''


def test_a_method_signature_becomes_settings_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "made_up_method.py").write_text(METHOD)
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "losses.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    made = method_settings("made_up.losses", "loss")
    assert dataclasses.asdict(made(reference=True)) == {
        "beta": -0.5,
        "kind": "a",
        "reference": True,
        "floor": None,
    }
    table = leaves(made)
    assert table["beta"].help == "strength of the pull towards the reference"
    assert table["reference"].help == "whether a second model speaks"
    assert table["reference"].default is dataclasses.MISSING
    settings = parse(made, ["--beta", "1e-2", "--reference", "kind=b"], "rung loss")
    assert settings == made(beta=0.01, kind="b", reference=True)
    with pytest.raises(UserError, match="one of a, b"):
        parse(made, ["--reference", "kind=c"], "rung loss")
    with pytest.raises(LookupError, match="no function gone"):
        method_settings("made_up.losses", "gone")
    with pytest.raises(TypeError, match="argument q of other has no annotation"):
        method_settings("made_up.losses", "other")


def test_help_shows_every_key(capsys):
    with pytest.raises(SystemExit) as stopped:
        read("--help")
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    for word in ("--learning-rate", "--lora.rank", "Rank of the adapters.", "--config FILE.yaml", "MODEL"):
        assert word in text
