"""Questions asked once: kept on disk, bounded in cost, and what becomes of them when the server is in trouble."""

import fcntl
import json
import multiprocessing
import threading
import time
from math import exp, log

import pytest
from judge_server import Fake, server

from rung import endpoint
from rung.endpoint import Endpoint
from rung.errors import UserError
from rung.rewards.asking import Budget, Ledger, Question, Reply, Unanswered, append, user
from rung.rewards.asking_endpoint import EndpointModel, logprobs_of_options


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES", (0.01, 0.01, 0.01))


def ask(text, **more):
    return Question((user(text),), **more)


def echo(question):
    return question.messages[-1]["content"].upper()


def of_server(state, concurrency=1, **more):
    return EndpointModel(Endpoint(state.url, "m", **more), concurrency)


def test_equal_questions_are_put_once_and_answers_come_in_order():
    model = Fake(echo)
    ledger = Ledger(model)
    assert [r.text for r in ledger.ask([ask("a"), ask("b"), ask("a")])] == ["A", "B", "A"]
    assert [r.text for r in ledger.ask([ask("b"), ask("c")])] == ["B", "C"]
    assert [q.messages[0]["content"] for q in model.asked] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "other",
    [ask("b"), ask("a", max_tokens=9), ask("a", temperature=1.0), ask("a", seed=1), ask("a", options=("A",))],
)
def test_whatever_could_change_an_answer_is_another_question(other):
    model = Fake(echo)
    Ledger(model).ask([ask("a"), other])
    assert len(model.asked) == 2


def test_a_second_run_asks_nothing_and_another_model_asks_all(tmp_path):
    file = tmp_path / "deep" / "kept.jsonl"
    first = Ledger(Fake(echo), file).ask([ask("a"), ask("\u00fc\ud800")])
    model = Fake(lambda q: pytest.fail("asked again"))
    again = Ledger(model, file)
    assert again.ask([ask("a"), ask("\u00fc\ud800")]) == first and again.asked == 0
    other = Fake(echo, "another")
    Ledger(other, file).ask([ask("a")])
    assert len(other.asked) == 1
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert (
        rows[0]["question"]["messages"] == [{"role": "user", "content": "a"}]
        and rows[0]["reply"]["text"] == "A"
    )


def test_a_line_torn_by_a_kill_is_asked_again_and_the_file_is_whole_afterwards(tmp_path):
    file = tmp_path / "kept.jsonl"
    Ledger(Fake(echo), file).ask([ask("a"), ask("b")])
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    model = Fake(echo)
    Ledger(model, file).ask([ask("a"), ask("b")])
    assert [q.messages[0]["content"] for q in model.asked] == ["b"]
    assert sorted(file.read_bytes().splitlines()) == sorted(content.splitlines())


def test_a_changed_file_is_refused(tmp_path):
    file = tmp_path / "kept.jsonl"
    file.write_text('{"key": "x"}\n')
    with pytest.raises(UserError, match="no kept answer"):
        Ledger(Fake(echo), file)


def test_two_ledgers_of_one_file_learn_from_each_other(tmp_path):
    one, two = (Ledger(Fake(echo), tmp_path / "f") for _ in range(2))
    one.ask([ask("a")])
    two.ask([ask("a"), ask("b")])
    one.ask([ask("b")])
    assert (one.asked, two.asked) == (1, 1)


def writes(file, name):
    for i in range(50):
        append(file, f"{name}{i} {'x' * 5000}\n".encode())


def test_lines_of_several_writers_stay_whole(tmp_path):
    file = tmp_path / "f"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=writes, args=(file, name)) for name in "ab"]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    lines = file.read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(f"{n}{i}" for n in "ab" for i in range(50))
    assert {len(line.split()[1]) for line in lines} == {5000}


def test_a_writer_waits_for_another_one(tmp_path):
    file = tmp_path / "f"
    with file.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = threading.Thread(target=append, args=(file, b"late\n"))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        other.write(b"half a line")  # which its writer is about to end
        other.flush()
        other.write(b", and the rest\n")
        other.flush()
    writer.join(5)
    assert file.read_bytes() == b"half a line, and the rest\nlate\n"


def test_the_budget_of_calls_holds_over_runs(tmp_path):
    questions = [ask(c) for c in "abcde"]
    first = Ledger(Fake(echo), tmp_path / "f", Budget(calls=3)).ask(questions)
    assert [isinstance(r, Reply) for r in first] == [True, True, True, False, False]
    assert "3 calls is spent" in first[3].reason
    again = Ledger(Fake(echo), tmp_path / "f", Budget(calls=4)).ask(questions)
    assert [isinstance(r, Reply) for r in again] == [True] * 4 + [False]


def test_the_budget_of_tokens_stops_before_the_question_after_it_is_reached(tmp_path):
    # 15 tokens an answer: 0, 15 and 30 used before the first three, 45 before the fourth.
    found = Ledger(Fake(echo), tmp_path / "f", Budget(tokens=45)).ask([ask(c) for c in "abcde"])
    assert [isinstance(r, Reply) for r in found] == [True, True, True, False, False]
    later = Ledger(Fake(echo), tmp_path / "f", Budget(tokens=46)).ask([ask(c) for c in "abcde"])
    assert sum(isinstance(r, Reply) for r in later) == 4


# ---- a server in trouble ----


@pytest.mark.parametrize("trouble", [429, 500, 503, "drop", b"<html>"])
def test_trouble_that_passes_costs_nothing(trouble):
    with server() as state:
        state.trouble = lambda number: trouble if number in (0, 1, 3) else None
        found = Ledger(of_server(state)).ask([ask("a"), ask("b")])
    assert all(isinstance(r, Reply) for r in found) and len(state.asked) == 5


def test_a_server_that_dies_is_given_up_and_asked_again_by_the_next_run_only_for_what_is_missing(tmp_path):
    questions = [ask(str(i)) for i in range(10)]
    with server() as state:
        state.trouble = lambda number: None if number < 4 else 503
        ledger = Ledger(of_server(state), tmp_path / "f")
        found = ledger.ask(questions)
        # 4 answers; the fifth question is tried once and three times again; then no other is put
        assert len(state.asked) == 8
        assert [isinstance(r, Reply) for r in found] == [True] * 4 + [False] * 6
        assert "503" in found[4].reason and "any more" in found[5].reason
        state.trouble, state.asked = (lambda number: None), []
        again = Ledger(of_server(state), tmp_path / "f").ask(questions)
    assert all(isinstance(r, Reply) for r in again) and len(state.asked) == 6
    assert {asked["messages"][0]["content"] for asked in state.asked} == {str(i) for i in range(4, 10)}


def test_a_server_that_comes_back_between_batches_is_asked_again():
    with server() as state:
        ledger = Ledger(of_server(state))
        state.trouble = lambda number: 500
        assert isinstance(ledger.ask([ask("a")])[0], Unanswered)
        state.trouble = lambda number: None
        assert isinstance(ledger.ask([ask("a")])[0], Reply)


def test_answers_under_way_are_kept_and_one_failure_among_many_is_alone():
    with server() as state:
        state.trouble = lambda number: 400 if number == 2 else None
        found = Ledger(of_server(state, 4)).ask([ask(str(i)) for i in range(12)])
    assert sum(isinstance(r, Reply) for r in found) == 11
    assert [r.reason for r in found if isinstance(r, Unanswered)] == [
        'the server refused the question: HTTP 400: {"error": {"message": "status 400"}}'
    ]


def test_failures_with_answers_between_them_are_no_reason_to_give_up():
    texts = ["bad 1", *(f"good {i}" for i in range(60)), "bad 2", *(f"fine {i}" for i in range(60))]
    with server() as state:
        state.trouble = lambda number: 503 if "bad" in state.asked[number]["messages"][0]["content"] else None
        found = Ledger(of_server(state, 2)).ask([ask(text) for text in texts])
    assert [text for text, r in zip(texts, found, strict=True) if isinstance(r, Unanswered)] == [
        "bad 1",
        "bad 2",
    ]


def test_a_key_that_is_not_taken_is_the_users_error():
    with server() as state:
        state.trouble = lambda number: 401
        with pytest.raises(UserError, match="status 401"):
            Ledger(of_server(state)).ask([ask("a"), ask("b")])


def test_a_slow_server_costs_its_timeout_and_the_patience_bounds_the_tries():
    with server() as state:
        state.trouble = lambda number: 5.0
        began = time.monotonic()
        [found] = Ledger(of_server(state, timeout=0.2, pauses=(0.1,) * 50, patience=0.7)).ask([ask("a")])
    assert isinstance(found, Unanswered) and "timed out" in found.reason
    assert time.monotonic() - began < 2 and 2 <= len(state.asked) <= 3


@pytest.mark.parametrize(
    "sent", [{}, {"choices": []}, {"choices": [{"message": {"content": 7}}]}, {"choices": 3}]
)
def test_an_answer_of_no_known_shape_is_no_answer_and_is_not_kept(sent, tmp_path):
    with server() as state:
        state.trouble = lambda number: sent
        ledger = Ledger(of_server(state), tmp_path / "f")
        [found] = ledger.ask([ask("a")])
    assert isinstance(found, Unanswered) and "is none" in found.reason and not ledger.replies
    assert not (tmp_path / "f").exists()


def test_no_content_is_an_empty_answer():
    with server() as state:
        state.trouble = lambda number: {"choices": [{"message": {"content": None}}]}
        [found] = Ledger(of_server(state)).ask([ask("a")])
    assert found == Reply("")


def test_what_is_asked_is_what_is_sent_and_usage_is_counted():
    with server() as state:
        state.top = [("A", log(0.5)), (" A", log(0.1)), ("(B", log(0.2)), ("x", log(0.2))]
        ledger = Ledger(of_server(state))
        [found] = ledger.ask([ask("a", max_tokens=3, temperature=0.5, seed=7, options=("A", "B"))])
    [asked] = state.asked
    assert {k: asked[k] for k in ("model", "max_tokens", "temperature", "seed", "logprobs", "top_logprobs")} == {
        "model": "m", "max_tokens": 3, "temperature": 0.5, "seed": 7, "logprobs": True, "top_logprobs": 20
    }  # fmt: skip
    assert (found.read, found.written, ledger.tokens) == (7, 3, 10)
    assert found.logprobs == pytest.approx({"A": log(0.6), "B": log(0.2)})


def test_options_are_found_however_they_are_spelt():
    tokens = [("\u2581A", log(0.1)), ("a", log(0.2)), ("[A]", log(0.3)), ("Apple", log(0.4)), ("B.", -9999.0)]
    found = logprobs_of_options(("A", "B"), tokens)
    assert exp(found["A"]) == pytest.approx(0.6) and found["B"] == -9999.0
    assert logprobs_of_options(("A", "B"), [("C", -1.0)]) == {}
