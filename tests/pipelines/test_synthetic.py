"""Self-Instruct and Evol-Instruct with models that are plain functions: filters, elimination, resuming, the command."""

import json
import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_server import Fake, server

from rung import endpoint
from rung.cli import status
from rung.data.grams import words_of
from rung.data.similarity import Pool, common_length, rouge_l
from rung.pipelines.evolve import OPERATIONS, evol_instruct, operation
from rung.pipelines.instruct import answered, list_question, listed, self_instruct, unfit
from rung.rewards.asking import Ledger, Question, Reply, Unanswered, user

WORDS = [f"w{i}" for i in range(500)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES", (0.01,))


# ---- likeness ----


def brute(a, b):
    """The longest common subsequence by its recursion."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + brute(a[1:], b[1:])
    return max(brute(a[1:], b), brute(a, b[1:]))


short = st.lists(st.sampled_from("abc"), max_size=7)


@given(short, short)
def test_the_common_subsequence_is_the_longest(a, b):
    assert common_length(a, b) == brute(a, b)


def test_rouge_l_by_hand():
    # "police kill the gunman" and "police killed the gunman": 3 of 4 words
    assert rouge_l(["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]) == 0.75
    assert rouge_l(["the", "gunman", "kill", "police"], ["police", "kill", "the", "gunman"]) == 0.5
    assert rouge_l([], ["a"]) == 0.0


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6), max_size=8))
def test_the_pool_holds_only_what_is_unlike_and_refuses_nothing_else(texts):
    pool, kept = Pool(0.7), []
    for words in texts:
        alike = any(rouge_l(words, other) >= 0.7 for other in kept)
        assert pool.admit(" ".join(words)) == (not alike)
        if not alike:
            kept.append(words)


# ---- Self-Instruct ----

SEEDS = [f"seed {' '.join(WORDS[8 * i : 8 * i + 7])}" for i in range(12)]


def new_task(dice):
    return "Tell " + " ".join(dice.sample(WORDS, 8))


def writer(question):
    """Eight new tasks for a list, an answer for a task."""
    text = question.messages[-1]["content"]
    if not text.startswith("These are tasks"):
        return f"Answer to {text}"
    dice = random.Random(question.seed)
    return "\n".join(f"{i}. {new_task(dice)}" for i in range(1, 9))


def test_tasks_come_until_there_are_enough_each_with_its_answer():
    model = Fake(writer)
    made = self_instruct(Ledger(model), SEEDS, 50)
    assert len(made.rows) == 50 and not made.drops
    tasks = [row["messages"][0]["content"] for row in made.rows]
    assert all(
        row["messages"][1]["content"] == f"Answer to {task}"
        for row, task in zip(made.rows, tasks, strict=True)
    )
    assert all(
        rouge_l(words_of(a), words_of(b)) < 0.7 for i, a in enumerate(tasks) for b in [*tasks[:i], *SEEDS]
    )
    lists = [q for q in model.asked if q.messages[0]["content"].startswith("These")]
    assert len(lists) == 8 and len({q.seed for q in lists}) == 8 and {q.temperature for q in lists} == {0.7}
    assert {q.temperature for q in model.asked if q not in lists} == {0.0}
    again = self_instruct(Ledger(Fake(writer)), SEEDS, 50)
    assert again.rows == made.rows


def test_examples_are_six_seeds_and_two_of_those_made():
    def shown(made):
        text = list_question(SEEDS, made, random.Random(3), 9, 0.7).messages[0]["content"]
        return re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)

    assert len(shown([])) == 8 and set(shown([])) <= set(SEEDS)
    mixed = shown(["own one", "own two", "own three"])
    assert len(mixed) == 8 and sum(task.startswith("own") for task in mixed) == 2
    assert sum(task.startswith("own") for task in shown(["own one"])) == 1 and len(shown(["own one"])) == 8


def test_a_model_that_repeats_itself_is_left_after_five_rounds_of_nothing():
    model = Fake(
        lambda q: "1. Name three rivers of Asia" if q.messages[0]["content"].startswith("These") else "x y"
    )
    made = self_instruct(Ledger(model), SEEDS, 10, lists=2)
    assert len(made.rows) == 1 and made.wanted == 10
    assert made.drops == {"like another task": 11}  # twice in 6 rounds, once new


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("Name three rivers of Asia", ""),
        ("Name rivers", "a task too short"),
        ("word " * 151, "a task too long"),
        ("(1) Name three rivers", "a task that begins with a mark"),
        ("Describe the picture of the house", "a task text cannot hold"),
        ("Describe how filegrams of figures work", ""),
    ],
)
def test_what_is_no_task(task, reason):
    assert unfit(task) == reason


def test_lists_are_read_and_a_cut_off_end_is_not():
    drops = Counter()
    text = "Sure!\n1. one two\n 2) three\n- four\n\nnot an item\n10: ten"
    assert listed(Reply(text), drops) == ["one two", "three", "four", "ten"]
    assert listed(Reply(text, finish="length"), drops) == ["one two", "three", "four"]
    assert listed(Reply("none"), drops) == [] and listed(Unanswered("too long", again=False), drops) == []
    assert drops == {"a task that is cut off": 1, "a reply without a list": 1, "no list: too long": 1}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("I am sorry, no."), "a refusal"),
        (Reply("sorry " + "word " * 80), None),
        (Reply("...!"), "an answer that says nothing"),
        (Reply("half", finish="length"), "an answer that is cut off"),
        (Unanswered("too long"), "no answer: too long"),
    ],
)
def test_what_is_no_answer(reply, reason):
    drops = Counter()
    assert (answered("q", reply, drops) is None) == (reason is not None)
    assert drops == ({reason: 1} if reason else {})


# ---- Evol-Instruct ----


def evolver(question):
    """Adds a word; what it makes is different, and everything has an answer."""
    text = question.messages[-1]["content"]
    if text.startswith("Below is a task"):
        task = re.search(r"<task>\n(.*)\n</task>", text, re.DOTALL).group(1)
        return f"{task} and {' '.join(random.Random(question.seed).sample(WORDS, 5))}"
    if text.startswith("Do these two"):
        return "Different."
    return f"Answer to {text}"


def evolved(say, seeds=SEEDS, rounds=1, **more):
    model = Fake(say)
    return evol_instruct(Ledger(model), seeds, rounds, **more), model


def test_every_seed_evolves_once_a_round_from_its_last_child():
    made, model = evolved(evolver, rounds=3)
    assert len(made.rows) == 36 == made.wanted and not made.drops
    assert Counter(row["round"] for row in made.rows) == {1: 12, 2: 12, 3: 12}
    for parent, child in zip(made.rows[:12], made.rows[12:24], strict=True):
        assert child["parent"] == parent["messages"][0]["content"]
    assert all(row["operation"] in OPERATIONS for row in made.rows)
    assert len(model.asked) == 3 * 36


def test_operations_are_drawn_evenly():
    count = Counter(operation(f"task {i}", 0, 0) for i in range(1200))
    assert set(count) == set(OPERATIONS) and all(150 < n < 250 for n in count.values())  # 200, deviation 12.9
    assert any(operation("t", 0, s) != operation("t", 0, 0) for s in range(9))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda kind, said: "Same." if kind == "Do these two" else said, "the same as its parent"),
        (lambda kind, said: "same or different" if kind == "Do these two" else said,
         "not compared: neither same nor different"),
        (lambda kind, said: "The rewritten prompt: x y z" if kind == "Below is a t" else said,
         "a task that repeats the order"),
        (lambda kind, said: "too short" if kind == "Below is a t" else said, "a task too short"),
        (lambda kind, said: Reply(said, finish="length") if kind == "Below is a t" else said, "a task too long"),
        (lambda kind, said: "Sorry, no" if kind == "other" else said, "a refusal"),
        (lambda kind, said: SEEDS[1] if kind == "Below is a t" else said, "like another task"),
    ],
)  # fmt: skip
def test_elimination_keeps_the_parent_for_the_next_round(change, reason):
    def say(question):
        text = question.messages[-1]["content"]
        kind = next((start for start in ("Below is a t", "Do these two") if text.startswith(start)), "other")
        return change(kind, evolver(question))

    made, model = evolved(say, SEEDS[:1] if reason != "like another task" else SEEDS[:2], rounds=2)
    assert not made.rows and set(made.drops) == {reason} and made.drops[reason] >= 2
    orders = [q.messages[0]["content"] for q in model.asked if q.messages[0]["content"].startswith("Below")]
    assert all(SEEDS[0] in text or SEEDS[1] in text for text in orders)


def test_seeds_that_are_alike_are_one():
    made, _ = evolved(evolver, [SEEDS[0], SEEDS[0].upper(), SEEDS[1]])
    assert len(made.rows) == 2 and made.drops == {"a seed like another": 1}


# ---- the command ----


def command(tmp_path, state, *words):
    (tmp_path / "s.jsonl").write_text(
        "".join(json.dumps({"instruction": s, "output": "x"}) + "\n" for s in SEEDS)
    )
    words = ["--seeds", tmp_path / "s.jsonl", "--out", tmp_path / "o.jsonl", "--concurrency", "2", *words]
    return status(["data", "generate", state.url, *map(str, words)])


@pytest.mark.parametrize(
    ("say", "words", "calls", "rows"),
    [
        (writer, ["--count", "20"], 4 + 20, 20),
        (evolver, ["--method", "evol-instruct", "--rounds", "2"], 72, 24),
    ],
)
def test_a_server_that_dies_mid_way_goes_on_and_the_rows_can_be_trained_on(
    say, words, calls, rows, tmp_path, capsys
):
    from rung.data.formats import parse_row

    with server() as state:
        state.say = lambda asked: say(Question(tuple(asked["messages"]), seed=asked["seed"]))
        state.trouble = lambda number: 500 if number >= 11 else None
        assert command(tmp_path, state, *words) == 1 and not (tmp_path / "o.jsonl").exists()
        state.trouble, state.asked = (lambda number: None), []
        assert command(tmp_path, state, *words) == 0
        assert len(state.asked) == calls - 11
        assert command(tmp_path, state, *words) == 2
    made = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(made) == rows and all(parse_row(row, "o").messages[-1]["role"] == "assistant" for row in made)
    assert "the same command goes on" in capsys.readouterr().err


def test_nothing_made_is_an_error_with_counts(tmp_path, capsys):
    with server() as state:
        state.say = lambda asked: "no idea"
        assert command(tmp_path, state) == 1
        assert len(state.asked) == 20  # 5 rounds of 4 lists
    assert "20  a reply without a list" in capsys.readouterr().err


def test_wrong_words(tmp_path, capsys):
    with server() as state:
        assert command(tmp_path, state, "--count", "0") == 2
        assert command(tmp_path, state, "--method", "self") == 2
        assert command(tmp_path, state, "--out", "o.txt") == 2
        assert command(tmp_path, state, "--seeds", "no.jsonl") == 2
    error = capsys.readouterr().err
    assert (
        "--count" in error
        and "self-instruct" in error
        and "--out NAME.jsonl" in error
        and "no.jsonl" in error
    )
    assert user("x") == {"role": "user", "content": "x"} and not state.asked
