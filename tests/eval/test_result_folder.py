"""Result folders: everything comes back equal, nothing is made twice, a kill costs at most the torn line."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import UserError
from rung.eval.difference import difference
from rung.eval.records import Header, Prompt, Sample, attempt_of, read_back, read_sample, sample_row, written
from rung.eval.results import Recorder, code_identity, read, rescore
from rung.rewards.score import Abstain, Failure, Score

HEADER = Header(
    model={"name": "tiny", "digest": "aa"},
    sampling={"temperature": 0.7, "seed": 1, "stop": ("\n",)},
    engine={"name": "rung", "version": "0.1.0", "dtype": "float32"},
    data={"name": "sums", "split": "test", "digest": "dd"},
    code={"rung": "0.1.0", "digest": "cc"},
    attempts=2,
)
PROMPTS = [
    Prompt(
        f"sums:{i}",
        [{"role": "user", "content": f"{i} + 1"}],
        f"<u>{i} + 1",
        [1, i, 2],
        i + 1,
        {"pair": (i, 1)},
    )
    for i in range(3)
]


def sample(task, index, answer="2", verdict=None, finish="stop"):
    return Sample(f"sums:{task}", index, answer, [7, 8, index], finish, verdict or Score(0.0), tokens=3)


SAMPLES = [
    sample(0, 0, "1", Score(1.0, {"exact": 1.0})),
    sample(0, 1, "no", Score(0.0)),
    sample(1, 0, "2", Score(1.0)),
    sample(1, 1, "?", Abstain("no number"), finish="length"),
    sample(2, 0, "3", Failure("timeout", "10 s")),
    sample(2, 1, "3\ud800\u2028", Score(1.0)),
]


def record(path, samples=SAMPLES, header=HEADER, prompts=PROMPTS):
    with Recorder(path, header, prompts) as recorder:
        for each in samples:
            recorder.add(each)
        return recorder.finish()


def test_all_comes_back_equal(tmp_path):
    made = record(tmp_path / "r")
    back = read(tmp_path / "r")
    assert back.header == HEADER and back.prompts == tuple(PROMPTS) and back.samples == tuple(SAMPLES)
    assert back.prompts[1].extra["pair"] == (1, 1) and back.samples[5].answer == "3\ud800\u2028"
    assert back.numbers == json.loads(json.dumps(made.numbers))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_the_numbers_by_hand(tmp_path):
    """Right 1 of 2, 1 of 1, 1 of 1: three of four scored; two of six were not, so between 3/6 and 5/6."""
    n = record(tmp_path / "r").numbers
    assert (n["attempts"], n["scored"], n["abstained"], n["failures"]) == (6, 4, 1, {"timeout": 1})
    assert n["accuracy"]["value"] == 0.75 and (n["worst"], n["best"]) == (0.5, pytest.approx(5 / 6))
    assert n["truncated"] == 1 and n["mean_tokens"] == 3 and n["unscored_tasks"] == 0
    assert n["pass_at"]["value"] == pytest.approx([(0.5 + 1 + 1) / 3])  # k = 1 only: two tasks have one score


def test_nothing_scored_is_no_accuracy_rather_than_zero(tmp_path):
    lost = [replace(s, verdict=Failure("crash")) for s in SAMPLES]
    n = record(tmp_path / "r", lost).numbers
    assert n["accuracy"] is None and n["mean_score"] is None and n["pass_at"] is None
    assert (n["worst"], n["best"], n["unscored_tasks"]) == (0, 1, 3)


def test_the_same_evaluation_in_another_order_is_the_same_bytes(tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", SAMPLES[::-1])
    for name in ("result.json", "prompts.jsonl", "samples.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_stopped_evaluation_goes_on_and_makes_nothing_twice(tmp_path):
    with Recorder(tmp_path / "r", HEADER, PROMPTS) as recorder:
        for each in (SAMPLES[3], SAMPLES[0]):
            recorder.add(each)
        with pytest.raises(UserError, match="4 of 6 attempts are missing, the first is sums:0/1"):
            recorder.finish()
    with pytest.raises(UserError, match=r"r\.partial is unfinished"):
        read(tmp_path / "r")
    with Recorder(tmp_path / "r", HEADER, PROMPTS) as recorder:
        assert [(p.task, i) for p, i in recorder.missing()] == [
            ("sums:0", 1), ("sums:1", 0), ("sums:2", 0), ("sums:2", 1)
        ]  # fmt: skip
        with pytest.raises(ValueError, match="there already"):
            recorder.add(SAMPLES[0])
        with pytest.raises(ValueError, match="not asked for"):
            recorder.add(sample(0, 2))
        for each in SAMPLES:
            if each.key not in recorder.samples:
                recorder.add(each)
        recorder.finish()
    record(tmp_path / "unbroken")
    assert difference(read(tmp_path / "r"), read(tmp_path / "unbroken")) is None
    assert not (tmp_path / "r.partial").exists()


@pytest.mark.parametrize("torn", [b'{"task": "sums:1", "ind', b"\xff\xfe", b"{}", b"x" * 5000])
def test_a_torn_last_line_is_made_again(tmp_path, torn):
    with Recorder(tmp_path / "r", HEADER, PROMPTS) as recorder:
        recorder.add(SAMPLES[0])
    with (tmp_path / "r.partial" / "samples.jsonl").open("ab") as file:
        file.write(torn)
    with Recorder(tmp_path / "r", HEADER, PROMPTS) as recorder:
        assert list(recorder.samples) == [("sums:0", 0)]
        for each in SAMPLES[1:]:
            recorder.add(each)
        recorder.finish()
    assert read(tmp_path / "r").samples == tuple(SAMPLES)


def test_kill_minus_nine_keeps_what_was_added(tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_result_folder import HEADER, PROMPTS, SAMPLES, Recorder
        recorder = Recorder({str(tmp_path / "r")!r}, HEADER, PROMPTS)
        for each in SAMPLES[:4]:
            recorder.add(each)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert done.returncode == -signal.SIGKILL
    with Recorder(tmp_path / "r", HEADER, PROMPTS) as recorder:
        assert list(recorder.samples.values()) == SAMPLES[:4]


def test_two_writers_are_one_too_many(tmp_path):
    with Recorder(tmp_path / "r", HEADER, PROMPTS), pytest.raises(UserError, match="another process"):
        Recorder(tmp_path / "r", HEADER, PROMPTS)


def test_another_evaluation_does_not_continue_this_one(tmp_path):
    Recorder(tmp_path / "r", HEADER, PROMPTS).close()
    warmer = replace(HEADER, sampling={**HEADER.sampling, "temperature": 1.0})
    with pytest.raises(UserError, match=r"sampling\.temperature: 0\.7 against 1\.0"):
        Recorder(tmp_path / "r", warmer, PROMPTS)


def test_a_finished_result_is_never_written_over(tmp_path):
    record(tmp_path / "r")
    with pytest.raises(UserError, match="never written over"):
        Recorder(tmp_path / "r", HEADER, PROMPTS)


def test_a_changed_file_is_noticed(tmp_path):
    record(tmp_path / "r")
    file = tmp_path / "r" / "samples.jsonl"
    file.write_text(file.read_text().replace('"score": 0.0', '"score": 1.0'))
    with pytest.raises(UserError, match="digest"):
        read(tmp_path / "r")


def test_prompts_need_keys_of_their_own_and_exact_values(tmp_path):
    with pytest.raises(UserError, match="sums:0 is there twice"):
        Recorder(tmp_path / "r", HEADER, [PROMPTS[0], PROMPTS[0]])
    with pytest.raises(UserError, match=r"task sums:0: reference.*holds a set"):
        Recorder(tmp_path / "r", HEADER, [replace(PROMPTS[0], reference={1, 2})])
    with pytest.raises(UserError, match="holds nan"):
        Recorder(tmp_path / "r", HEADER, [replace(PROMPTS[0], reference=float("nan"))])
    assert list(tmp_path.iterdir()) == []


# ---- rescoring ----


def exact(attempt):
    if attempt.answer == "?":
        raise RuntimeError("nothing to read")
    return float(attempt.answer == str(attempt.reference))


def test_rescoring_without_a_reward_rebuilds_the_numbers(tmp_path):
    made = record(tmp_path / "r")
    again = rescore(tmp_path / "r")
    assert again.tally.numbers() == made.numbers and again.changed == ()


def test_rescoring_judges_what_is_stored_and_names_what_changed(tmp_path):
    record(tmp_path / "r")
    before = {p: p.read_bytes() for p in (tmp_path / "r").iterdir()}
    again = rescore(tmp_path / "r", exact)
    assert [s.verdict for s in again.samples[:3]] == [Score(1.0), Score(0.0), Score(1.0)]
    assert isinstance(again.samples[3].verdict, Failure) and again.samples[4].verdict == Score(1.0)
    assert [old.key for old, _ in again.changed] == [
        ("sums:0", 0),
        ("sums:1", 1),
        ("sums:2", 0),
        ("sums:2", 1),
    ]
    assert again.tally.accuracy.value == pytest.approx(3 / 5)
    assert before == {p: p.read_bytes() for p in (tmp_path / "r").iterdir()}


def test_a_reward_sees_the_attempt_as_it_was():
    seen = attempt_of(PROMPTS[1], SAMPLES[3])
    assert (seen.reference, seen.task, seen.extra, seen.truncated) == (2, "sums:1", {"pair": (1, 1)}, True)
    assert (seen.token_ids, seen.tokens, seen.prompt) == ((7, 8, 1), 3, tuple(PROMPTS[1].messages))


# ---- what differs ----

CHANGES = [
    ("model.digest", lambda h, p, s: (replace(h, model={"name": "tiny", "digest": "bb"}), p, s)),
    ("prompt sums:1 text", lambda h, p, s: (h, [p[0], replace(p[1], text="<s><u>1 + 1"), p[2]], s)),
    ("sampling.seed", lambda h, p, s: (replace(h, sampling={**h.sampling, "seed": 2}), p, s)),
    ("engine.dtype", lambda h, p, s: (replace(h, engine={**h.engine, "dtype": "bfloat16"}), p, s)),
    ("data.digest", lambda h, p, s: (replace(h, data={**h.data, "digest": "ee"}), p, s)),
    ("prompt sums:2 reference", lambda h, p, s: (h, [*p[:2], replace(p[2], reference=4)], s)),
    ("code.digest", lambda h, p, s: (replace(h, code={**h.code, "digest": "ff"}), p, s)),
    ("correct_at", lambda h, p, s: (replace(h, correct_at=0.5), p, s)),
    ("sample sums:0/1 answer", lambda h, p, s: (h, p, [s[0], replace(s[1], answer="No"), *s[2:]])),
    ("sample sums:2/0 verdict", lambda h, p, s: (h, p, [*s[:4], replace(s[4], verdict=Score(1.0)), s[5]])),
]


@pytest.mark.parametrize("first", range(len(CHANGES)), ids=[name for name, _ in CHANGES])
def test_the_first_difference_is_named_whatever_follows(tmp_path, first):
    """Every later change is made as well: the earliest cause must still be the one named."""
    changed = (HEADER, list(PROMPTS), list(SAMPLES))
    for _, change in CHANGES[first:]:
        changed = change(*changed)
    record(tmp_path / "a")
    record(tmp_path / "b", changed[2], changed[0], changed[1])
    found = difference(read(tmp_path / "a"), read(tmp_path / "b"))
    assert found is not None and found.what == CHANGES[first][0]
    assert difference(read(tmp_path / "b"), read(tmp_path / "a")).what == found.what


def test_a_model_of_the_same_digest_may_have_another_name(tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", header=replace(HEADER, model={"name": "elsewhere/tiny", "digest": "aa"}))
    assert difference(read(tmp_path / "a"), read(tmp_path / "b")) is None
    unknown = replace(HEADER, model={"name": "other", "digest": ""})
    record(tmp_path / "c", header=unknown)
    record(tmp_path / "d", header=replace(unknown, model={"name": "tiny", "digest": ""}))
    assert difference(read(tmp_path / "c"), read(tmp_path / "d")).what == "model.name"


def test_of_long_answers_the_place_is_shown(tmp_path):
    long = ["x" * 300 + tail for tail in ("left", "right")]
    for name, text in zip("ab", long, strict=True):
        record(tmp_path / name, [replace(SAMPLES[0], answer=text), *SAMPLES[1:]])
    found = str(difference(read(tmp_path / "a"), read(tmp_path / "b")))
    assert "at 300" in found and "left" in found and "right" in found and len(found) < 200


def test_a_missing_key_and_an_extra_task_are_differences(tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", header=replace(HEADER, engine={"name": "rung", "dtype": "float32"}))
    assert str(difference(read(tmp_path / "a"), read(tmp_path / "b"))).startswith(
        "engine.version: '0.1.0' against"
    )
    record(tmp_path / "c", [s for s in SAMPLES if s.task != "sums:2"], prompts=PROMPTS[:2])
    assert difference(read(tmp_path / "a"), read(tmp_path / "c")).what == "prompts: how many"


# ---- exact JSON ----

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.just("__tuple__"), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(plain)
def test_values_survive_json_with_their_types(value):
    back = read_back(json.loads(json.dumps(written(value))))
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize("each", SAMPLES, ids=str)
def test_samples_survive(each):
    assert read_sample(json.loads(json.dumps(sample_row(each)))) == each


def test_the_code_has_an_identity():
    assert code_identity() == code_identity() and len(code_identity()["digest"]) == 64
