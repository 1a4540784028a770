"""`rung rollouts`: what is listed, in which order, what a page shows; nothing in a rollout can hurt the reader."""

import json

import numpy as np
import pytest

from rung import cli
from rung.batch import Rollout
from rung.commands.rollout_page import SCALES, style_of
from rung.commands.rollouts import spans
from rung.commands.terminal import safe
from rung.rewards.score import Abstain, Failure, Score
from rung.rollouts.store import Graded, RolloutStore
from rung.run import Run


def graded(task, text, verdict, length=3, entropy=1.0, advantage=0.0, finish="stop", group=0) -> Graded:
    ids = [ord(c) % 200 + 4 for c in text[:length].ljust(length)]
    rollout = Rollout(
        task=task,
        group=group,
        prompt_ids=np.array([70, 71], np.int32),
        token_ids=np.array(ids, np.int32),
        by_model=np.ones(length, bool),
        sampler_logprob=np.full(length, -1, np.float32),
        policy_logprob=np.full(length, -1.5, np.float32),
        entropy=np.full(length, entropy, np.float32),
        version=np.zeros(length, np.int32),
        finish=finish,
        text=text,
    )
    return Graded(rollout, verdict, np.full(length, advantage, np.float32))


FIRST = [
    graded("sum:1", "the answer is 4", Score(0.0, {"correct": 0.0, "format": 0.0}), length=5, advantage=-0.5),
    graded("sum:2", "I do not know", Score(0.5), length=9, entropy=3.0),
    graded("sort:1", "a b c", Failure("timeout", "10 s"), length=4, entropy=2.0, finish="length"),
    graded("only:1", "x", Score(0.25), length=1),
]
SECOND = [
    graded("sum:1", "the answer is 5", Score(1.0, {"correct": 1.0, "format": 0.5}), length=7, advantage=0.5),
    graded("sum:2", "seven", Score(0.5), length=30, entropy=float("nan")),
    graded("sort:1", "\x1b[31mred\x1b[0m\a\nnext", Abstain("a tie"), length=2),
]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def run(tmp_path, tiny_folder):
    run = Run.create(tmp_path / "run", {"settings": {"model": str(tiny_folder)}})
    RolloutStore(run.path).write(1, FIRST)
    RolloutStore(run.path).write(4, SECOND)
    return run


@pytest.fixture
def rollouts(run, capsys):
    """Run the command; `(exit status, lines)`."""

    def call(*words):
        code = cli.status(["rollouts", str(run.path), *words])
        captured = capsys.readouterr()
        return code, (captured.out + captured.err).splitlines()

    return call


def ids(rollouts, *words):
    code, lines = rollouts("--json", *words)
    assert code == 0
    return [json.loads(line)["id"] for line in lines]


def test_the_newest_round_comes_first(rollouts):
    assert ids(rollouts) == ["4/0", "4/1", "4/2", "1/0", "1/1", "1/2", "1/3"]
    assert ids(rollouts, "--lowest")[0] == "1/0"
    assert ids(rollouts, "--limit", "2") == ["4/0", "4/1"]
    assert len(ids(rollouts, "--limit", "0")) == 7


def test_sorting_puts_what_has_no_value_last(rollouts):
    assert ids(rollouts, "--sort", "reward")[0] == "4/0"
    assert set(ids(rollouts, "--sort", "reward")[-2:]) == {
        "1/2",
        "4/2",
    }  # neither failed nor unsure is a zero
    assert ids(rollouts, "--sort", "reward", "--lowest", "--limit", "2") == ["1/0", "1/3"]
    assert ids(rollouts, "--sort", "length", "--limit", "3") == ["4/1", "1/1", "4/0"]
    assert ids(rollouts, "--sort", "entropy", "--limit", "2") == ["1/1", "1/2"]
    assert ids(rollouts, "--sort", "entropy", "--limit", "0")[-1] == "4/1"  # not a number
    assert ids(rollouts, "--sort", "advantage", "--limit", "0")[0] == "4/0"
    assert ids(rollouts, "--sort", "advantage", "--lowest", "--limit", "0")[0] == "1/0"


def test_searching(rollouts):
    assert ids(rollouts, "--task", "sum:1") == ["4/0", "1/0"]
    assert ids(rollouts, "--round", "1", "--task", "sum") == ["1/0", "1/1"]
    assert ids(rollouts, "--contains", "answer is") == ["4/0", "1/0"]
    assert ids(rollouts, "--regex", r"is \d$", "--round", "4") == ["4/0"]
    assert ids(rollouts, "--failed") == ["4/2", "1/2"]
    assert ids(rollouts, "--failed", "--contains", "nothing like it") == []
    assert rollouts("--contains", "nothing like it") == (0, ["no rollout is like that"])


def test_the_list_tells_scores_failures_and_abstentions_apart(rollouts):
    _, lines = rollouts()
    assert lines[0].split() == ["id", "task", "reward", "tokens", "finish", "text"]
    assert lines[1].split()[:5] == ["4/0", "sum:1", "1", "7", "stop"]
    assert lines[3].split()[2] == "abstain" and lines[6].split()[2:5] == ["timeout", "4", "length"]
    _, lines = rollouts("--sort", "entropy")
    assert lines[0].split()[4] == "entropy" and lines[1].split()[4] == "3"


def test_control_characters_never_reach_the_terminal(rollouts):
    _, lines = rollouts()
    _, page = rollouts("--show", "4/2")
    for line in lines + page:
        assert "\x1b" not in line and "\a" not in line
    assert "\\x1b[31mred\\x1b[0m\\x07 next" in lines[3]
    assert safe("é\n\t🙂\u202e") == "é\n\t🙂\\u202e"


@pytest.mark.parametrize("width", [30, 50, 80])
def test_a_narrow_terminal(rollouts, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for words in ((), ("--sort", "entropy"), ("--diff", "1", "4")):
        _, lines = rollouts(*words)
        assert max(map(len, lines)) <= max(width, 60 if words[:1] == ("--diff",) else 0)
    _, lines = rollouts()
    assert len(lines) == 8 and lines[1].startswith("4/0")  # one line each


def test_json_is_json_whatever_the_numbers(rollouts):
    _, lines = rollouts("--json", "--round", "4")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert rows[1]["mean_entropy"] == "nan" and rows[2]["reward"] is None and rows[2]["detail"] == "a tie"
    assert rows[0]["parts"] == {"correct": 1.0, "format": 0.5} and rows[0]["model_tokens"] == 7


def test_showing_one_plainly(rollouts):
    code, lines = rollouts("--show", "1/0")
    assert code == 0 and lines[0] == "1/0  sum:1"
    page = "\n".join(lines)
    assert "score 0 = correct 0, format 0" in page and "5 by the model, 0 by the environment" in page
    assert "log-prob -1.5, entropy 1, advantage -0.5" in page
    assert len([line for line in lines if line.startswith("   -1.500     1.000    -0.500  '")]) == 5
    assert "failure (timeout) 10 s" in "\n".join(rollouts("--show", "1/2")[1])
    assert "abstain: a tie" in "\n".join(rollouts("--show", "4/2")[1])


def test_showing_one_as_json(rollouts):
    _, lines = rollouts("--show", "4/1", "--json")
    [page] = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert page["verdict"] == "score" and page["value"] == 0.5 and page["entropy"] == ["nan"] * 30
    assert len(page["tokens"]) == 30 == len(page["logprob"])


def test_showing_one_in_colour(rollouts, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    for colour, (_, styles, (low, high)) in SCALES.items():
        page = "\n".join(rollouts("--show", "1/0", "--colour", colour)[1])
        assert low in page and high in page and page.count("\x1b[") > len(styles)
    # every token of 1/0 has the rollout's largest negative advantage, so the deepest red
    assert page.count("\x1b[37;41m") >= 2


def test_shades_by_hand():
    assert (
        style_of(np.log(0.005), "logprob") == "white on red"
        and style_of(np.log(0.95), "logprob") == "default"
    )
    assert style_of(0.0, "entropy") == "default" and style_of(2.5, "entropy") == "white on blue"
    assert [style_of(v, "advantage") for v in (-1, 0, 1)] == ["white on red", "default", "black on green"]


def test_tokens_of_the_environment_have_no_numbers(run, rollouts):
    mixed = graded("tool:1", "abcd", Score(1.0), length=4)
    mixed.rollout.by_model[1:3] = False
    RolloutStore(run.path).write(5, [mixed])
    lines = rollouts("--show", "5/0")[1]
    dashes = [line for line in lines if line.startswith("        -         -         -  ")]
    assert len(dashes) == 2 and any("2 by the model, 2 by the environment" in line for line in lines)


def test_diff_puts_the_largest_change_first(rollouts):
    _, lines = rollouts("--diff", "1", "4", "--json")
    rows = [json.loads(line) for line in lines]
    assert [row["task"] for row in rows] == [
        "sum:1",
        "sum:2",
        "sort:1",
    ]  # +1, then +21 tokens, then no rewards
    assert (
        rows[0]["reward_change"] == 1.0 and rows[1]["length_after"] == 30 and rows[2]["reward_change"] is None
    )
    _, lines = rollouts("--diff", "1", "4")
    assert lines[0] == "rounds 1 and 4: 3 tasks in both, 1 only in 1, 0 only in 4"
    assert lines[3] == "reward 0 -> 1 (+1)   tokens 5 -> 7"
    assert lines[4].split(maxsplit=1) == ["1", "the answer is 4"]
    assert lines[5].split(maxsplit=1) == ["4", "the answer is 5"]


def test_diff_takes_means_over_attempts(run, rollouts):
    RolloutStore(run.path).write(
        6, [graded("sum:1", "a", Score(v), length=n) for v, n in ((0.0, 2), (1.0, 4))]
    )
    _, lines = rollouts("--diff", "1", "6", "--json")
    [row] = map(json.loads, lines)
    assert row["reward_after"] == 0.5 and row["length_after"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--round", "3"], "no rollouts of round 3; it has 1, 4"),
        (["--diff", "1", "9"], "no rollouts of round 9"),
        (["--show", "7"], "7 is no id of a rollout; ids look like 12/3"),
        (["--show", "1/9"], "the last id is 1/3"),
        (["--show", "9/0"], "no rollouts of round 9"),
        (["--regex", "("], "no regular expression"),
        (["--limit", "-1"], "limit is -1"),
        (["--show", "1/0", "--diff", "1", "4"], "two different pages"),
        (["--colour", "entropy"], "--show 12/3"),
    ],
)
def test_what_cannot_be_asked(rollouts, words, message):
    code, lines = rollouts(*words)
    assert code == 2 and message in "\n".join(lines)


def test_an_empty_run_and_no_run(tmp_path, capsys):
    Run.create(tmp_path / "new", {})
    assert cli.status(["rollouts", str(tmp_path / "new")]) == 0
    assert "no rollouts in" in capsys.readouterr().out
    assert cli.status(["rollouts", str(tmp_path / "new"), "--json"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.status(["rollouts", str(tmp_path / "gone")]) == 2


def test_a_run_without_any_tokenizer_says_so(tmp_path, capsys):
    run = Run.create(tmp_path / "run", {})
    RolloutStore(run.path).write(1, FIRST)
    assert cli.status(["rollouts", str(run.path), "--show", "1/0"]) == 2
    assert "names no model" in capsys.readouterr().err


def test_reading_leaves_the_run_as_it_is(run, rollouts):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for words in ((), ("--show", "1/0"), ("--diff", "1", "4")):
        assert rollouts(*words)[0] == 0
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_spans():
    assert spans([1, 2, 3, 5, 7, 8]) == "1 to 3, 5, 7 to 8"
