"""The quality filter: each rule, the judge's six dimensions, counts, leaks, and a judge that dies in between."""

import json

import pytest
from judge_server import Fake, server

from rung import endpoint
from rung.cli import status
from rung.errors import RunStopped, UserError
from rung.pipelines.filter import Rules, filtered, normalised, repeated_share
from rung.rewards.asking import Ledger, Reply, Unanswered
from rung.rewards.quality import DIMENSIONS, FAULTS, Quality, Standard, quality_question, read_quality
from rung.rewards.score import Abstain


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES", (0.01,))


def written(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def row(question, answer, **more):
    return {"prompt": question, "completion": answer, **more}


def reasons(kept):
    return [(each["origin"].rpartition(":")[2], each["reason"]) for each in kept.dropped]


LONG = " ".join(f"word{i}" for i in range(60))


def test_each_rule_names_itself_and_the_first_that_fires_counts(tmp_path):
    rows = [
        row("q1", "a good answer"),
        row("q2", "?!"),
        row("q3", LONG),
        row("q4", "and so on and on " * 9),
        row("q1", "A good  ANSWER."),
        row("q5", " ".join(LONG.split()[:45])),
        row("q5", " ".join([*LONG.split()[:44], "other"])),
        '{"prompt": "q"',
        {"foo": 1},
        row("q6", "the capital of the land is a city by the sea with many towers and one bridge"),
    ]
    held = [{"question": "x", "answer": "say: The capital of the land is a city by the sea with many towers"}]
    rules = Rules(min_words=1, max_words=50, held_out=(written(tmp_path / "held.jsonl", held),))
    kept = filtered(written(tmp_path / "r.jsonl", rows), rules)
    assert kept.rows == [rows[0], rows[5]]
    assert reasons(kept) == [
        ("2", "answer too short"), ("3", "answer too long"), ("4", "answer repeats itself"), ("5", "exact duplicate"),
        ("7", "near duplicate"), ("8", "not readable"), ("9", "of no known form"), ("10", "leaks held-out data"),
    ]  # fmt: skip
    assert kept.dropped[3]["detail"].startswith(f"of {tmp_path / 'r.jsonl'}:1, likeness 1.00")
    assert (
        kept.dropped[4]["detail"].startswith(f"of {tmp_path / 'r.jsonl'}:6")
        and kept.dropped[4]["row"] == rows[6]
    )
    assert len(kept.rows) + len(kept.dropped) == len(rows)


def test_one_row_for_each_prompt_where_that_is_asked(tmp_path):
    file = written(tmp_path / "r.jsonl", [row("Q?", "one"), row("q", "two"), row("other", "one")])
    assert len(filtered(file, Rules()).rows) == 3
    assert len(filtered(file, Rules(whole=False)).rows) == 2
    twice = written(tmp_path / "s.jsonl", [row("q", "one")] * 2)
    assert len(filtered(twice, Rules(likeness=0)).rows) == 2


def test_text_is_normalised_and_nothing_else_is(tmp_path):
    raw = row("e\u0301 ", "a\u200bb\r\n  keep  inside \t\nend", n=3, deep={"x": ["y  ", None, True]})
    assert normalised(raw) == row("\u00e9", "ab\n  keep  inside\nend", n=3, deep={"x": ["y", None, True]})
    kept = filtered(written(tmp_path / "r.jsonl", [raw, row("q", "plain")]), Rules())
    assert kept.cleaned == 1 and kept.rows[0]["completion"] == "ab\n  keep  inside\nend"


def test_the_repeated_share_is_counted_in_five_grams():
    assert repeated_share(["a", "b", "c", "d", "e", "f"]) == 0.0
    assert repeated_share(("a b c d e " * 2).split()) == pytest.approx(1 - 5 / 6)
    assert repeated_share(["a"] * 104) == pytest.approx(0.99) and repeated_share(["a"] * 4) == 0.0


# ---- the judge ----


def marks(low=None, value=5, fault=""):
    return json.dumps({**dict.fromkeys(DIMENSIONS, value), **({low: 2} if low else {}), "fault": fault})


def quality(*six, fault=""):
    return Quality(dict(zip(DIMENSIONS, six, strict=True)), fault)


def test_the_rule_is_mean_of_four_none_below_three_and_no_fault():
    standard = Standard()
    assert standard.failure(quality(4, 4, 4, 4, 4, 4)) == ""
    assert standard.failure(quality(5, 5, 3, 3, 4, 4)) == ""
    assert standard.failure(quality(4, 4, 4, 4, 4, 3)) == "judge: mean below 4"
    assert standard.failure(quality(5, 5, 2, 5, 5, 5)) == "judge: completeness below 3"
    assert standard.failure(quality(5, 5, 5, 5, 5, 5, fault="hallucination")) == "judge: hallucination"
    assert Standard(2, 2).failure(quality(2, 2, 2, 2, 2, 2)) == ""
    with pytest.raises(UserError, match="marks go from 1 to 5"):
        Standard(6, 3)


def test_six_dimensions_and_five_faults_are_asked_for():
    told = quality_question(({"role": "user", "content": "q"},), "a", 9).messages[0]["content"]
    assert len(DIMENSIONS) == 6 and len(FAULTS) == 5 and all(name in told for name in (*DIMENSIONS, *FAULTS))
    example = told[told.index("JSON alone: ") + 12 :].replace("N", "3")
    assert read_quality(Reply(example)) == quality(3, 3, 3, 3, 3, 3)


@pytest.mark.parametrize(
    "text",
    ["", "fine", "{}", marks("correctness").replace("2", "6"), marks("correctness").replace("2", "2.5"),
     marks("correctness").replace("2", "true"), marks("correctness").replace("2", '"4"'), marks(fault="ugly"),
     json.dumps({"correctness": 5}), "{broken", "[1]"],
)  # fmt: skip
def test_marks_that_cannot_be_read_are_an_abstain(text):
    assert isinstance(read_quality(Reply(text)), Abstain)


def test_marks_may_stand_in_prose():
    assert read_quality(Reply(f"Sure:\n```json\n{marks()}\n```")).mean == 5.0


def test_the_judge_sees_only_what_the_rules_let_pass_and_decides(tmp_path):
    def say(question):
        text = question.messages[-1]["content"]
        if "mute" in text:
            return "?"
        return (
            marks("naturalness")
            if "odd" in text
            else marks(fault="hallucination")
            if "made" in text
            else marks()
        )

    model = Fake(say)
    rows = [
        row("a", "good"),
        row("b", "odd"),
        row("c", "made up"),
        row("d", "mute"),
        row("e", "..."),
        row("f", "fine"),
    ]
    kept = filtered(written(tmp_path / "r.jsonl", rows), Rules(), Ledger(model))
    assert [each["prompt"] for each in kept.rows] == ["a", "f"] and kept.rows[0]["quality"] == dict.fromkeys(
        DIMENSIONS, 5
    )
    assert kept.reasons == {
        "answer too short": 1, "judge: naturalness below 3": 1, "judge: hallucination": 1,
        "not judged: the judge gave no JSON of marks": 1,
    }  # fmt: skip
    assert len(model.asked) == 5
    away = Ledger(Fake(lambda q: Unanswered("away")))
    with pytest.raises(RunStopped, match="away"):
        filtered(written(tmp_path / "r.jsonl", rows), Rules(), away)


def test_what_is_judged_of_each_form(tmp_path):
    user, reply = {"role": "user", "content": "ask"}, {"role": "assistant", "content": "said"}
    rows = [
        {"messages": [user, {**reply, "content": "first"}, user, reply]},
        {"prompt": "ask", "chosen": "said", "rejected": "not this"},
        {"instruction": "ask", "output": "said"},
        {"text": "said"},
    ]
    model = Fake(lambda q: marks())
    filtered(written(tmp_path / "r.jsonl", rows), Rules(likeness=0), Ledger(model))
    shown = [question.messages[-1]["content"] for question in model.asked]
    assert all("<answer>\nsaid\n</answer>" in text for text in shown) and "first" in shown[0]
    assert not any("not this" in text for text in shown)


def command(tmp_path, *words):
    return status(
        ["data", "filter", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "kept.jsonl"), *words]
    )


def test_a_judge_that_dies_mid_way_goes_on_without_judging_twice(tmp_path, capsys):
    written(tmp_path / "r.jsonl", [row(f"q{i}", f"answer {i}") for i in range(8)])
    with server() as state:
        state.say = lambda asked: marks(
            "correctness" if "answer 3" in asked["messages"][-1]["content"] else None
        )
        state.trouble = lambda number: 503 if number >= 3 else None
        words = ["--judge", state.url, "--concurrency", "1"]
        assert command(tmp_path, *words) == 1
        assert "the same command goes on" in capsys.readouterr().err
        assert not (tmp_path / "kept.jsonl").exists()
        state.trouble, state.asked = (lambda number: None), []
        assert command(tmp_path, *words) == 0
        assert len(state.asked) == 5
    assert "1  judge: correctness below 3" in capsys.readouterr().out
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 7
    [lost] = [json.loads(line) for line in (tmp_path / "kept.dropped.jsonl").read_text().splitlines()]
    assert lost["marks"]["correctness"] == 2 and lost["row"]["prompt"] == "q3"
    assert command(tmp_path) == 2 and "never written over" in capsys.readouterr().err


def test_an_empty_set_is_an_error_with_counts_and_writes_nothing(tmp_path, capsys):
    written(tmp_path / "r.jsonl", [row("q", "?"), row("p", "!"), {"x": 1}])
    assert command(tmp_path) == 1
    error = capsys.readouterr().err
    assert "no row is left" in error and "2  answer too short" in error and "1  of no known form" in error
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--likeness", "2"], "likeness of 2"),
        (["--duplicates-of", "rows"], "row"),
        (["--least", "0"], "1 to 5"),
        (["--held-out", "no.jsonl"], "no.jsonl"),
        (["--judge", "http://127.0.0.1:1/v1"], "cannot be asked which models"),
    ],
)
def test_wrong_words(words, message, tmp_path, capsys):
    written(tmp_path / "r.jsonl", [row("q", "a")])
    assert command(tmp_path, *words) == 2 and message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]
