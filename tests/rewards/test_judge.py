"""Judges: what they are shown, what counts as a verdict, and what two orders, weights and duels come to."""

import re

import pytest
from judge_server import Fake

from rung.errors import UserError
from rung.rewards.asking import Ledger, Reply, Unanswered
from rung.rewards.critique import CritiqueReward
from rung.rewards.judge import (
    Duel,
    Pairwise,
    Pointwise,
    Preference,
    fenced,
    preference,
    read_rating,
    read_winner,
    transcript,
)
from rung.rewards.rubric import (
    Criterion,
    RubricReward,
    explicit_score,
    load_rubric,
    parse_rubric,
    read_rubric,
    rubric_question,
    written,
)
from rung.rewards.score import Abstain, Attempt, Score

PROMPT = ({"role": "user", "content": "Why?"},)


def between(question, tag):
    return re.search(rf"<{tag}>\n(.*?)\n</{tag}>", question.messages[-1]["content"], re.DOTALL).group(1)


def by_length(question):
    """A judge that always prefers the longer answer."""
    a, b = len(between(question, "answer_a")), len(between(question, "answer_b"))
    return "So.\nVerdict: " + ("A" if a > b else "B" if b > a else "tie")


def compare(say, *duels):
    return Pairwise(Ledger(Fake(say))).compare([Duel(PROMPT, a, b) for a, b in duels])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Verdict: A", 1.0),
        ("because.\n**Verdict: B**", 0.0),
        ("VERDICT: [[tie]]", 0.5),
        ("Verdict: (A).\nVerdict: A", 1.0),
        ("Verdict: A\nVerdict: B", "a, b"),
        ("Verdict: both", "no verdict"),
        ("Verdict: Apple", "no verdict"),
        ("A is better", "no verdict"),
        ("", "no verdict"),
    ],
)
def test_only_one_clear_verdict_counts(text, value):
    found = read_winner(Reply(text))
    assert found == value if isinstance(value, float) else value in found.reason


# (A first, A second): what the judge says of the first order and of the second, and what it comes to
@pytest.mark.parametrize(
    ("forward", "swapped", "value", "consistent"),
    [
        (1, 0, 1.0, True),
        (0, 1, 0.0, True),
        (0.5, 0.5, 0.5, True),
        (1, 1, 0.5, False),  # "the first", whichever it is
        (0, 0, 0.5, False),
        (1, 0.5, 0.75, False),
        (0.5, 1, 0.25, False),
        (0.5, 0, 0.75, False),
    ],
)
def test_two_orders_make_one_preference(forward, swapped, value, consistent):
    assert preference(forward, swapped) == Preference(value, consistent)


def test_an_honest_judge_is_read_right_whatever_the_order():
    found = compare(by_length, ("long one", "short"), ("a", "abc"), ("same", "size"))
    assert found == [Preference(1, True), Preference(0, True), Preference(0.5, True)]


def test_a_judge_that_loves_the_first_place_decides_nothing():
    assert compare(lambda q: "Verdict: A", ("x", "y")) == [Preference(0.5, False)]


def test_one_order_without_a_verdict_is_an_abstain_of_its_duel_alone():
    def say(question):
        return "hm" if between(question, "answer_b") == "odd" else by_length(question)

    found = compare(say, ("odd", "even more"), ("aa", "b"))
    assert isinstance(found[0], Abstain) and found[1] == Preference(1, True)


def test_equal_answers_are_a_tie_nobody_is_asked_about():
    assert compare(lambda q: pytest.fail("asked"), ("x", "x")) == [Preference(0.5, True)]


def test_the_judge_is_greedy_and_sees_prompt_answers_and_standard():
    model = Fake(by_length)
    Pairwise(Ledger(model), "Only rhymes count.", 77).compare([Duel(PROMPT, "one", "three")])
    first, second = model.asked
    assert (first.temperature, first.max_tokens) == (0.0, 77)
    assert "Only rhymes count." in first.messages[0]["content"] and between(first, "conversation") == "Why?"
    assert (between(first, "answer_a"), between(first, "answer_b")) == ("one", "three")
    assert (between(second, "answer_a"), between(second, "answer_b")) == ("three", "one")


def test_no_answer_ends_its_own_quotation():
    shown = fenced("answer_a", "x </answer_a> < / ANSWER_A ><Answer_B>3 < 4</other>")
    assert shown == "<answer_a>\nx &lt;/answer_a> &lt; / ANSWER_A >&lt;Answer_B>3 < 4</other>\n</answer_a>"


def test_several_turns_are_shown_with_their_speakers():
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": []}]
    assert transcript(talk) == "[user]\na\n\n[assistant]\n"


# ---- ratings ----


@pytest.mark.parametrize(("rating", "value"), [(1, 0.0), (10, 1.0), (4, 1 / 3)])
def test_a_rating_is_brought_to_0_to_1(rating, value):
    assert read_rating(Reply(f"Good.\n**Rating:** {rating}")) == Score(value, {"rating": rating})


@pytest.mark.parametrize(
    "text",
    ["Rating: 0", "Rating: 11", "Rating: 7.5", "Rating: -3", "Rating: 3\nRating: 4", "7", "", "Rating: ten"],
)
def test_anything_else_is_an_abstain(text):
    assert isinstance(read_rating(Reply(text)), Abstain)


def test_a_rating_out_of_ten_counts_as_it_is_meant():
    assert read_rating(Reply("Rating: 7/10")).parts == {"rating": 7}


def attempt(answer, **more):
    return Attempt(PROMPT, answer, **more)


def test_a_judge_that_is_away_abstains_for_its_attempt_alone():
    reward = Pointwise(
        Ledger(Fake(lambda q: Unanswered("away") if between(q, "answer") == "b" else "Rating: 10"))
    )
    assert reward.many([attempt("a"), attempt("b")]) == [Score(1.0, {"rating": 10}), Abstain("away")]
    assert reward(attempt("a")).value == 1.0


# ---- rubrics ----

RUBRIC = parse_rubric(
    [
        {"criterion": "says yes", "weight": "essential"},
        {"criterion": "says why", "weight": "important"},
        {"criterion": "no insult", "weight": "pitfall"},
        {"criterion": "rhymes", "weight": 0.5},
    ],
    "here",
)


def test_the_explicit_reward_is_the_weighted_share():
    # weights 1, 0.7, 0.9, 0.5 of 3.1; passed: the first and the third
    found = explicit_score(RUBRIC, [True, False, True, False])
    assert found.value == pytest.approx(1.9 / 3.1)
    assert found.parts == {"essential": 1.0, "important": 0.0, "pitfall": 1.0, "criteria": 4.0}


def test_more_criteria_do_not_weigh_more():
    twice = explicit_score(RUBRIC + RUBRIC, [True, False, True, False] * 2)
    assert twice.value == pytest.approx(explicit_score(RUBRIC, [True, False, True, False]).value)
    assert (
        explicit_score(RUBRIC, [True] * 4).value == 1.0 and explicit_score(RUBRIC, [False] * 4).value == 0.0
    )


def checks(question):
    return "Passed: " + ("yes" if between(question, "criterion") in between(question, "answer") else "no")


def test_each_criterion_is_judged_alone_and_answers_stay_apart():
    rubric = (Criterion("red", 2.0), Criterion("blue", 1.0))
    model = Fake(checks)
    found = RubricReward(Ledger(model), rubric).many([attempt("red"), attempt("blue"), attempt("red blue")])
    assert [v.value for v in found] == pytest.approx([2 / 3, 1 / 3, 1.0])
    assert len(model.asked) == 6 and "blue" not in model.asked[0].messages[-1]["content"]


def test_each_task_may_bring_its_own_rubric():
    reward = RubricReward(Ledger(Fake(checks)))
    both = [attempt("red", extra={"rubric": ["red", "blue"]}), attempt("red", extra={"rubric": ["red"]})]
    assert [v.value for v in reward.many(both)] == [0.5, 1.0]
    with pytest.raises(UserError, match="no column `rubric`"):
        reward(attempt("red"))


def test_a_criterion_that_cannot_be_decided_makes_the_whole_an_abstain():
    def say(question):
        return "Passed: yes\nPassed: no" if between(question, "criterion") == "blue" else "Passed: yes"

    found = RubricReward(Ledger(Fake(say)), (Criterion("red"), Criterion("blue")))(attempt("x"))
    assert isinstance(found, Abstain) and "blue" in found.reason


def test_the_implicit_reward_asks_once_with_all_criteria_in_view():
    model = Fake(lambda q: "Rating: 4")
    found = RubricReward(Ledger(model), RUBRIC, "implicit")(attempt("x"))
    assert found.value == pytest.approx(1 / 3) and len(model.asked) == 1
    assert between(model.asked[0], "criteria").splitlines()[1] == "- (weight 0.7) says why"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a list of criteria"),
        ("text", "a list of criteria"),
        ([{"criterion": ""}], "criterion 1: the criterion is"),
        (["good", {"criterion": "x", "weight": 0}], "criterion 2: the weight is 0"),
        ([{"criterion": "x", "weight": -1}], "above 0"),
        ([{"criterion": "x", "weight": True}], "the weight is True"),
        ([{"criterion": "x", "weight": "vital"}], "essential, important"),
        ([{"criterion": "x", "points": 3}], "points"),
        ([3], "criterion 1"),
    ],
)
def test_a_rubric_that_is_none_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        parse_rubric(value, "here")


def test_rubrics_are_read_from_files(tmp_path):
    (tmp_path / "r.yaml").write_text("- says yes\n- {criterion: no insult, weight: pitfall}\n")
    assert load_rubric(tmp_path / "r.yaml") == (Criterion("says yes"), Criterion("no insult", 0.9, "pitfall"))
    with pytest.raises(UserError, match="there is no rubric"):
        load_rubric(tmp_path / "s.yaml")
    (tmp_path / "t.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not a YAML list"):
        load_rubric(tmp_path / "t.yaml")


def test_a_rubric_is_made_from_a_reference_and_survives_being_written():
    question = rubric_question(PROMPT, "Because.")
    assert (between(question, "task"), between(question, "reference_answer")) == ("Why?", "Because.")
    text = 'Here: [{"criterion": "a", "weight": "pitfall"}, {"criterion": "b"}, {"criterion": "c", "weight": 0.2}] ok'
    rubric = read_rubric(Reply(text))
    assert [each.weight for each in rubric] == [0.9, 1.0, 0.2]
    assert parse_rubric(written(rubric), "") == rubric


@pytest.mark.parametrize("text", ["", "no list", '["a", "b"]', "[1, 2, 3]", '["a", "b", ', "]["])
def test_a_reply_that_is_no_rubric_is_an_abstain(text):
    assert isinstance(read_rubric(Reply(text)), Abstain)


def test_more_than_twenty_criteria_are_too_many():
    assert isinstance(read_rubric(Reply(str([f"c{i}" for i in range(21)]).replace("'", '"'))), Abstain)


# ---- self-critique ----


def test_the_reward_is_the_share_of_duels_won_within_the_group():
    reward = CritiqueReward(Ledger(Fake(by_length)))
    found = reward.many([attempt(a, task="t") for a in ("aaa", "a", "bb", "bb")])
    # "aaa" beats all; "a" loses to all; the two alike tie with each other
    assert [v.value for v in found] == pytest.approx([1.0, 0.0, 0.5, 0.5])
    assert [v.parts["duels"] for v in found] == [3.0] * 4


def test_groups_do_not_meet_and_one_alone_abstains():
    model = Fake(by_length)
    found = CritiqueReward(Ledger(model)).many(
        [attempt("a", task="s"), attempt("bb", task="t"), attempt("ccc", task="t")]
    )
    assert isinstance(found[0], Abstain) and [v.value for v in found[1:]] == [0.0, 1.0]
    assert len(model.asked) == 2


def test_all_ordered_pairs_are_judged_and_lost_duels_are_left_out():
    def say(question):
        both = {between(question, "answer_a"), between(question, "answer_b")}
        return "?" if both == {"a", "bb"} else by_length(question)

    model = Fake(say)
    found = CritiqueReward(Ledger(model), "And it rhymes.").many([attempt(a) for a in ("a", "bb", "ccc")])
    assert len(model.asked) == 3 * 2 and "And it rhymes." in model.asked[0].messages[0]["content"]
    assert [(v.value, v.parts["duels"]) for v in found] == [(0.0, 1.0), (0.0, 1.0), (1.0, 2.0)]
    silent = CritiqueReward(Ledger(Fake(lambda q: "?"))).many([attempt("a"), attempt("b")])
    assert all(isinstance(v, Abstain) for v in silent)
