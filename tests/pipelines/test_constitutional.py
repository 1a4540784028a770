"""Constitutional AI and RLAIF: what is asked of whom, what is dropped and why, labels, and going on after a break."""

import json
import re
from collections import Counter
from math import log
from pathlib import Path

import pytest
from judge_server import Fake, server

from rung import endpoint
from rung.cli import status
from rung.data.prompts import Prompt, read_prompts
from rung.errors import UserError
from rung.pipelines.constitutional import constitutional, labelled
from rung.rewards.asking import Ledger, Reply, Unanswered
from rung.rewards.constitution import Principle, drawn, load_constitution, read_choice, soft_labels
from rung.rewards.judge import Duel
from rung.rewards.score import Abstain

RULES = (Principle("kind", "Be kind."), Principle("short", "Be short."), Principle("true", "Be true."))
SHIPPED = Path(__file__).parents[2] / "recipes" / "constitution.yaml"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES", (0.01,))


def prompts(*texts):
    return [Prompt(({"role": "user", "content": t},), f"p:{i}", {}) for i, t in enumerate(texts, 1)]


def shown(question, tag):
    found = re.search(rf"<{tag}>\n(.*?)\n</{tag}>", question.messages[-1]["content"], re.DOTALL)
    return found.group(1) if found else None


def kind_of(question):
    if question.messages[0]["role"] == "user":
        return "answer"
    return "revision" if shown(question, "critique") else "critique"


def talk(question):
    """Answers `prompt.`; every critique wants one more exclamation mark; a prompt with ? in it pleases the critic."""
    kind = kind_of(question)
    if kind == "answer":
        return question.messages[-1]["content"] + "."
    if kind == "critique":
        return "Nothing to change." if "?" in shown(question, "conversation") else "More!"
    return shown(question, "answer") + "!"


def made(say, *texts, rounds=1):
    model = Fake(say)
    ledger = Ledger(model)
    return constitutional(ledger, ledger, prompts(*texts), RULES, rounds=rounds), model


def test_the_initial_answer_is_rejected_and_the_last_revision_chosen():
    rows, model = made(talk, "a", "b", rounds=3)
    assert [(r["rejected"][0]["content"], r["chosen"][0]["content"]) for r in rows.pairs] == [
        ("a.", "a.!!!"),
        ("b.", "b.!!!"),
    ]
    assert rows.sft[0]["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "a.!!!"},
    ]
    assert Counter(map(kind_of, model.asked)) == {"answer": 2, "critique": 6, "revision": 6}
    assert not rows.drops and sorted(rows.pairs[0]["principles"]) == ["kind", "short", "true"]


def test_each_round_looks_at_the_last_answer_under_its_own_principle():
    rows, model = made(talk, "a", rounds=2)
    texts = {p.name: p.text for p in RULES}
    critiques = [q for q in model.asked if kind_of(q) == "critique"]
    assert [shown(q, "answer") for q in critiques] == ["a.", "a.!"]
    assert [shown(q, "principle") for q in critiques] == [texts[name] for name in rows.pairs[0]["principles"]]
    revisions = [q for q in model.asked if kind_of(q) == "revision"]
    assert [shown(q, "answer") for q in revisions] == ["a.", "a.!"]
    assert [shown(q, "principle") for q in revisions] == [shown(q, "principle") for q in critiques]
    assert [shown(q, "critique") for q in revisions] == ["More!", "More!"]
    answer, *others = model.asked
    assert answer.temperature == 1.0 and {q.temperature for q in others} == {0.0}


def test_what_pleases_the_critic_is_kept_for_sft_and_makes_no_pair():
    rows, model = made(talk, "a", "b?")
    assert len(rows.sft) == 2 and len(rows.pairs) == 1
    assert rows.notes == {"no pair: nothing to change": 1}
    assert sum(kind_of(q) == "revision" for q in model.asked) == 1


@pytest.mark.parametrize(
    ("kind", "said", "reason"),
    [
        ("answer", " \n", "the answer is empty"),
        ("answer", Reply("half", finish="length"), "the answer is cut off"),
        ("answer", Unanswered("too long", again=False), "the answer did not come: too long"),
        ("critique", Unanswered("too long", again=False), "no critique: too long"),
        ("revision", "", "a revision is empty"),
        ("revision", Reply("half", finish="length"), "a revision is cut off"),
        ("revision", "Here is the revised answer: x", "a revision talks about the revision"),
        ("revision", "Thanks to the critique, x", "a revision talks about the revision"),
    ],
)
def test_each_drop_has_its_reason_and_every_prompt_is_counted(kind, said, reason):
    def say(question):
        bad = "bad" in str(question.messages[-1]["content"])
        return said if bad and kind_of(question) == kind else talk(question)

    rows, _ = made(say, "good", "bad", "bad 2")
    assert rows.drops == {reason: 2} and len(rows.sft) == len(rows.pairs) == 1


def test_an_answer_that_comes_back_unchanged_makes_no_pair():
    rows, _ = made(lambda q: shown(q, "answer") if kind_of(q) == "revision" else talk(q), "a")
    assert not rows.pairs and rows.notes == {"no pair: the answer came back unchanged": 1}


def test_principles_are_drawn_evenly_without_repeating_themselves_first():
    count = Counter()
    for i in range(600):
        names = [p.name for p in drawn(RULES, 3, 0, ({"role": "user", "content": str(i)},))]
        assert sorted(names) == ["kind", "short", "true"]
        count[names[0]] += 1
    assert all(150 < n < 250 for n in count.values())  # 200 each, deviation 11.5
    talk = ({"role": "user", "content": "x"},)
    assert len(drawn(RULES, 7, 0, talk)) == 7 and drawn(RULES, 3, 0, talk) == drawn(RULES, 3, 0, talk)
    assert any(drawn(RULES, 3, s, talk) != drawn(RULES, 3, 0, talk) for s in range(1, 9))


# ---- labels ----


def chance(a, b):
    return Reply("A", logprobs={"A": log(a), "B": log(b)})


def test_a_label_is_the_share_of_the_letters_mass():
    assert read_choice(chance(0.3, 0.1)) == pytest.approx(0.75)
    assert read_choice(Reply("A", logprobs={"B": -1.0})) == 0.0
    assert isinstance(read_choice(Reply("A")), Abstain)


def test_both_orders_are_averaged_so_a_love_of_places_cancels():
    duel = Duel(({"role": "user", "content": "q"},), "good", "bad")
    # prefers the good one 0.8 to 0.2, and the first place: 0.9 when the good one stands there, else 0.3
    say = lambda q: chance(0.9, 0.1) if shown(q, "answer_a") == "good" else chance(0.3, 0.7)  # noqa: E731
    model = Fake(say)
    [label] = soft_labels(Ledger(model), [duel], RULES[:1])
    assert label == pytest.approx((0.9 + 1 - 0.3) / 2)
    assert all((q.max_tokens, q.options, q.temperature) == (1, ("A", "B"), 0.0) for q in model.asked)
    blind = Fake(lambda q: chance(0.9, 0.1))
    assert soft_labels(Ledger(blind), [duel], RULES[:1]) == [pytest.approx(0.5)]


def test_after_reasoning_the_label_is_clamped_in_each_order():
    duel = Duel(({"role": "user", "content": "q"},), "good", "bad")

    def say(question):
        if not question.options:
            return "Because."
        assert question.messages[-2] == {"role": "assistant", "content": "Because."}
        return (
            chance(0.99, 0.01)
            if "<answer_a>\ngood" in question.messages[1]["content"]
            else chance(0.45, 0.55)
        )

    [label] = soft_labels(Ledger(Fake(say)), [duel], RULES[:1], reason=True)
    assert label == pytest.approx((0.6 + 1 - 0.45) / 2)


def test_pairs_carry_the_probability_of_the_chosen_one_and_ties_are_counted():
    seen = []

    def say(question):
        if not question.options:
            seen.append(question)
            return f"{question.messages[-1]['content']} {len([q for q in seen if q.messages == question.messages])}"
        first = shown(question, "answer_a")
        if first.startswith("tie"):
            return chance(0.5, 0.5)
        if first.startswith("mute"):
            return Reply("?")
        return chance(0.2, 0.8) if first.endswith("1") else chance(0.9, 0.1)

    ledger = Ledger(Fake(say))
    rows = labelled(ledger, ledger, prompts("x", "tie", "mute"), RULES, tie=0.05)
    [pair] = rows.pairs
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("x 2", "x 1")
    assert pair["probability"] == pytest.approx((0.8 + 0.9) / 2)
    assert rows.drops["a tie"] == 1 and rows.drops.total() == 2
    assert len({q.seed for q in seen}) == 6 and {q.temperature for q in seen} == {1.0}


# ---- files and the command ----


def test_the_shipped_constitution_is_one():
    assert 10 <= len(load_constitution(SHIPPED)) <= 16


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "list of principles"), ("a: b", "list of principles"), ("- a: b\n  c: d", "principle 1"), ("- ''", "principle 1"),
     ("- x: a\n- x: b", "two principles are called x"), ("[", "not a YAML list")],
)  # fmt: skip
def test_a_constitution_that_is_none_is_refused(text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_constitution(tmp_path / "c.yaml")


def test_prompts_come_from_rows_of_any_form(tmp_path):
    user, reply = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    rows = [
        {"prompt": "q"}, {"prompt": [user]}, {"messages": [user, reply]},
        {"chosen": [user, reply], "rejected": [user, {**reply, "content": "b"}]},
        {"instruction": "q", "output": "a"}, {"question": "q", "answer": "a"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"chosen": "\n\nHuman: q\n\nAssistant: ", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    ]  # fmt: skip
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.messages for p in read_prompts(str(tmp_path / "r.jsonl"))] == [(user,)] * len(rows)
    assert len(read_prompts(str(tmp_path / "r.jsonl"), 2)) == 2
    (tmp_path / "s.jsonl").write_text(json.dumps({"prompt": [user, reply]}))
    with pytest.raises(UserError, match=r"s.jsonl:1.*does not end with a question"):
        read_prompts(str(tmp_path / "s.jsonl"))


def of_server(asked):
    from rung.rewards.asking import Question

    return talk(Question(tuple(asked["messages"])))


def command(tmp_path, state, *more, name="cai"):
    rows = [{"prompt": f"prompt {i}"} for i in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--prompts", tmp_path / "p.jsonl", "--constitution", SHIPPED, "--out", tmp_path / "o", *more]
    return status([name, state.url, "--concurrency", "2", *map(str, words)])


def test_a_server_that_dies_mid_way_loses_nothing_and_nothing_is_asked_twice(tmp_path, capsys):
    with server() as state:
        state.say = of_server
        state.trouble = lambda number: 503 if number >= 9 else None
        assert command(tmp_path, state, "--rounds", "2") == 1
        error = capsys.readouterr().err
        assert "did not come" in error and "calls.jsonl" in error
        assert sorted(f.name for f in tmp_path.iterdir()) == ["o", "p.jsonl"]
        assert [f.name for f in (tmp_path / "o").iterdir()] == ["calls.jsonl"]
        answered = len((tmp_path / "o" / "calls.jsonl").read_text().splitlines())
        assert answered == 9
        state.trouble, state.asked = (lambda number: None), []
        assert command(tmp_path, state, "--rounds", "2") == 0
        # 6 answers, and twice 6 critiques and 6 revisions
        assert len(state.asked) == 30 - 9
    pairs = [json.loads(line) for line in (tmp_path / "o" / "pairs.jsonl").read_text().splitlines()]
    assert [(p["rejected"][0]["content"], p["chosen"][0]["content"]) for p in pairs] == [
        (f"prompt {i}.", f"prompt {i}.!!") for i in range(6)
    ]
    assert len((tmp_path / "o" / "sft.jsonl").read_text().splitlines()) == 6
    assert json.loads((tmp_path / "o" / "report.json").read_text())["pairs"] == 6


def test_what_was_made_can_be_trained_on(tmp_path, tiny_folder):
    from rung.data.examples import load_pairs
    from rung.models.hub import load_tokenizer

    with server() as state:
        state.say = of_server
        assert command(tmp_path, state) == 0
    assert (
        len(
            load_pairs(
                [str(tmp_path / "o" / "pairs.jsonl")], load_tokenizer(str(tiny_folder)), max_length=200
            ).pairs
        )
        == 6
    )


def test_the_critic_may_be_another_model(tmp_path):
    with server() as writer, server() as critic:
        writer.say = critic.say = of_server
        assert command(tmp_path, writer, "--judge", critic.url) == 0
    assert (len(writer.asked), len(critic.asked)) == (12, 6)


def test_labels_over_a_server(tmp_path):
    with server() as state:
        state.say = lambda asked: f"{asked['messages'][-1]['content']} {asked['seed']}"
        state.top = [("A", log(0.7)), ("B", log(0.1))]
        assert command(tmp_path, state, name="rlaif") == 1  # the judge knows only places: all ties
        assert not (tmp_path / "o" / "pairs.jsonl").exists()


def test_nothing_left_is_an_error_with_counts(tmp_path, capsys):
    with server() as state:
        state.say = lambda asked: ""
        assert command(tmp_path, state) == 1
    error = capsys.readouterr().err
    assert "no pair is left" in error and "6  the answer is empty" in error
    assert not (tmp_path / "o" / "sft.jsonl").exists()


def test_the_budget_stops_the_run_and_a_larger_one_goes_on(tmp_path, capsys):
    with server() as state:
        state.say = of_server
        assert command(tmp_path, state, "--calls", "10") == 1
        assert "budget of 10 calls" in capsys.readouterr().err and len(state.asked) == 10
        assert command(tmp_path, state, "--calls", "18") == 0
        assert len(state.asked) == 18


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "4"], "1, 2 or 3"),
        (["--constitution", "no.yaml"], "no constitution"),
        (["--prompts", "no.jsonl"], "no.jsonl"),
        (["--max-tokens", "0"], "at least 1"),
        (["--concurrency", "0"], "concurrency"),
    ],
)
def test_wrong_words_are_answered_at_once(words, message, tmp_path, capsys):
    with server() as state:
        assert command(tmp_path, state, *words) == 2
    assert message in capsys.readouterr().err and not state.asked
    assert [f.name for f in tmp_path.iterdir()] == ["p.jsonl"]


def test_finished_files_are_not_written_over(tmp_path, capsys):
    with server() as state:
        state.say = of_server
        assert command(tmp_path, state) == 0
        assert command(tmp_path, state) == 2
    assert "never written over" in capsys.readouterr().err
