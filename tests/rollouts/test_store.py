"""Rollouts on disk: back bit for bit, a round whole or not at all whatever happens to its writer."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.batch import Rollout
from rung.errors import UserError
from rung.rewards.score import Abstain, Failure, Score
from rung.rollouts import store as module
from rung.rollouts.columns import SCHEMA
from rung.rollouts.store import ROWS_AT_ONCE, Graded, RolloutStore

TOKEN_COLUMNS = ("token_ids", "by_model", "sampler_logprob", "policy_logprob", "entropy", "version")


def graded(seed: int, length: int = 5, verdict=None, optional=(True, True), **fields) -> Graded:
    """A rollout whose floats are random bit patterns: infinities, subnormals and every kind of nan among them."""
    rng = np.random.default_rng(seed)

    def floats():
        return rng.integers(0, 2**32, length, dtype=np.uint32).view(np.float32)

    fields = {"task": f"sum:{seed}", "group": seed % 4, "finish": "stop", "digest": "d", "text": "t"} | fields
    rollout = Rollout(
        prompt_ids=rng.integers(0, 2**31, 3).astype(np.int32),
        token_ids=rng.integers(0, 2**31, length).astype(np.int32),
        by_model=rng.random(length) < 0.7,
        sampler_logprob=floats(),
        policy_logprob=floats(),
        entropy=floats(),
        version=rng.integers(0, 9, length).astype(np.int32),
        **fields,
    )
    weight, old = (floats() if wanted else None for wanted in optional)
    return Graded(rollout, verdict if verdict is not None else Score(0.5), floats(), weight, old)


def bits(record: Graded) -> list:
    """Everything a record holds, comparable to the bit."""
    rollout = record.rollout
    arrays = [getattr(rollout, name) for name in ("prompt_ids", *TOKEN_COLUMNS)]
    arrays += [record.advantage, record.weight, record.old_logprob]
    plain = [rollout.task, rollout.group, rollout.finish, rollout.digest, rollout.text, record.verdict]
    if isinstance(record.verdict, Score):
        plain.append([(name, float(value).hex()) for name, value in record.verdict.parts.items()])
    return plain + [None if a is None else (a.dtype.str, a.shape, a.tobytes()) for a in arrays]


finite = st.floats(allow_nan=False, allow_infinity=False)
verdicts = st.one_of(
    st.builds(Score, finite, st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), finite)),
    st.builds(Abstain, st.text(st.characters(codec="utf-8"), max_size=9)),
    st.builds(
        Failure, st.sampled_from(["timeout", "memory", "crash", "exception", "invalid"]), st.just("x\0y")
    ),
)
records = st.builds(
    graded,
    seed=st.integers(0, 2**20),
    length=st.integers(0, 40),
    verdict=verdicts,
    optional=st.tuples(st.booleans(), st.booleans()),
    text=st.text(st.characters(codec="utf-8")),
    finish=st.sampled_from(["stop", "length", "abort"]),
    group=st.integers(-(2**62), 2**62),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records, max_size=9))
def test_what_was_kept_comes_back_bit_for_bit(tmp_path_factory, written):
    store = RolloutStore(tmp_path_factory.mktemp("run"))
    store.write(0, written)
    assert [bits(record) for record in store.read(0)] == [bits(record) for record in written]


def test_a_round_of_several_row_groups_keeps_its_order(tmp_path):
    store = RolloutStore(tmp_path)
    written = [graded(i, length=i % 7) for i in range(2 * ROWS_AT_ONCE + 3)]
    store.write(7, written)
    assert [bits(record) for record in store.read(7)] == [bits(record) for record in written]
    assert pq.ParquetFile(store.path(7)).num_row_groups == 3
    ids = [row["id"] for row in store.scan(["id"])]
    assert ids == [f"7/{i}" for i in range(len(written))]


def test_flat_columns_say_what_the_record_says(tmp_path):
    """By hand: two tokens by the model with entropies 1 and 3 and one of the environment with 100."""
    rollout = Rollout(
        task="chain_sum:17",
        group=4,
        prompt_ids=np.array([5, 6], np.int32),
        token_ids=np.array([7, 8, 9], np.int32),
        by_model=np.array([True, False, True]),
        sampler_logprob=np.zeros(3, np.float32),
        policy_logprob=np.array([-1, -50, -2], np.float32),
        entropy=np.array([1, 100, 3], np.float32),
        version=np.full(3, 12, np.int32),
        finish="length",
        digest="abc",
        text="42",
    )
    advantage = np.array([0.5, 0, 0.25], np.float32)
    silent = graded(1, length=0, verdict=Failure("timeout", "10 s"))
    unsure = graded(2, verdict=Abstain("a tie"))
    store = RolloutStore(tmp_path, decode=lambda ids: f"<{ids}>")
    store.write(12, [Graded(rollout, Score(1.5, {"correct": 1, "format": 0.5}), advantage), silent, unsure])
    first, second, third = store.scan()
    assert list(first) == SCHEMA.names
    expected = {
        "id": "12/0",
        "round": 12,
        "task": "chain_sum:17",
        "group": 4,
        "prompt": "<[5, 6]>",
        "text": "42",
        "verdict": "score",
        "reward": 1.5,
        "parts": {"correct": 1.0, "format": 0.5},
        "failure": None,
        "finish": "length",
        "prompt_tokens": 2,
        "model_tokens": 2,
        "mean_logprob": -1.5,
        "mean_entropy": 2.0,
        "mean_advantage": 0.375,
        "by_model": [True, False, True],
        "weight": None,
    }
    assert {name: first[name] for name in expected} == expected
    assert (second["verdict"], second["reward"], second["failure"], second["detail"]) == (
        "failure", None, "timeout", "10 s",
    )  # fmt: skip
    assert (second["model_tokens"], second["mean_entropy"]) == (0, None)
    assert (third["verdict"], third["reward"], third["detail"]) == ("abstain", None, "a tie")


def test_scan_reads_only_what_is_asked(tmp_path):
    store = RolloutStore(tmp_path)
    for round in (2, 10, 1):
        store.write(round, [graded(round)])
    assert list(store.scan(["round"])) == [{"round": 1}, {"round": 2}, {"round": 10}]
    assert list(store.scan(["id"], rounds=[10, 1])) == [{"id": "10/0"}, {"id": "1/0"}]
    with pytest.raises(KeyError, match="no column rewards"):
        next(store.scan(["rewards"]))


def test_an_empty_store_and_an_empty_round(tmp_path):
    store = RolloutStore(tmp_path / "none")
    assert store.rounds() == [] and list(store.scan()) == [] and store.discard_after(0) == 0
    with pytest.raises(UserError, match="round 3; there are none yet"):
        store.read(3)
    store.write(5, [])
    assert store.read(5) == [] and store.rounds() == [5]
    with pytest.raises(UserError, match="round 3; there are 5 to 5"):
        store.read(3)


def test_half_a_surrogate_does_not_stop_the_round(tmp_path):
    RolloutStore(tmp_path).write(0, [graded(0, text="a\ud800b")])
    assert RolloutStore(tmp_path).read(0)[0].rollout.text == "a\\ud800b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: Graded(r.rollout, r.verdict, r.advantage.astype(np.float64)), "advantage is float64"),
        (lambda r: Graded(r.rollout, r.verdict, r.advantage[:-1]), r"advantage is float32 \(4,\)"),
        (lambda r: Graded(r.rollout, r.verdict, r.advantage, r.advantage[:2]), r"weight is float32 \(2,\)"),
    ],
)
def test_a_column_that_would_come_back_otherwise_is_refused(tmp_path, change, message):
    store = RolloutStore(tmp_path)
    with pytest.raises(ValueError, match="rollout 0/1: " + message):
        store.write(0, [graded(0), change(graded(1))])
    assert store.rounds() == []


# ---- never rewritten, dropped only by a resumed run ----


def test_a_round_is_never_rewritten(tmp_path):
    store = RolloutStore(tmp_path)
    before = store.write(1, [graded(1)]).read_bytes()
    with pytest.raises(UserError, match="never rewritten"):
        store.write(1, [graded(2)])
    assert store.path(1).read_bytes() == before


def test_discarding_drops_later_rounds_newest_first_and_leftovers(tmp_path, monkeypatch):
    store = RolloutStore(tmp_path)
    for round in (1, 2, 3, 10):
        store.write(round, [graded(round)])
    leftover = store.path(0).parent / ".round-000011.parquet.tmp"
    leftover.write_bytes(b"PAR1 half")
    order, unlink = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **k: (order.append(path.name), unlink(path, **k)))
    assert store.discard_after(2) == 2
    assert order == ["round-000010.parquet", "round-000003.parquet", leftover.name]
    assert store.rounds() == [1, 2] and not leftover.exists()
    store.write(3, [graded(33)])
    assert bits(store.read(3)[0]) == bits(graded(33))


# ---- what the world does to files ----


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        path.write_bytes(b"hello, I am a text file\n" * 9)
    elif how == "flipped":
        place = len(content) // 3
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign", "flipped"])
def test_a_damaged_file_is_named(tmp_path, how):
    store = RolloutStore(tmp_path)
    for round in (1, 2):
        store.write(round, [graded(i, length=200) for i in range(20)])
    damage(store.path(2), how)
    for reading in (lambda: store.read(2), lambda: list(store.scan())):
        with pytest.raises(UserError, match=r"round-000002\.parquet .*damaged"):
            reading()
    assert len(store.read(1)) == 20


def test_parquet_of_others_and_of_the_future_is_named(tmp_path):
    store = RolloutStore(tmp_path)
    store.write(1, [graded(1)])
    pq.write_table(pa.table({"a": [1]}), store.path(2))
    with pytest.raises(UserError, match=r"round-000002\.parquet is a Parquet file that rung did not write"):
        store.read(2)
    rows = pq.read_table(store.path(1))
    pq.write_table(rows.replace_schema_metadata({"rung.rollouts": '{"schema": 99}'}), store.path(3))
    with pytest.raises(UserError, match=r"round-000003\.parquet was written by a newer rung \(schema 99"):
        store.read(3)


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, monkeypatch, call):
    store = RolloutStore(tmp_path)
    store.write(0, [graded(0)])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if call == "fsync":
            patched.setattr(os, "fsync", full)
        else:
            patched.setattr(module, "write_atomically", full)
        with pytest.raises(UserError, match=r"disk is full: .*round-000001\.parquet .* was not written"):
            store.write(1, [graded(1)])
    assert [path.name for path in store.path(0).parent.iterdir()] == ["round-000000.parquet"]
    store.write(1, [graded(1)])


def test_a_real_full_disk(tmp_path):
    """/dev/full takes no byte: the store's file is put there by a link under its temporary name."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    store = RolloutStore(tmp_path)
    store.path(1).parent.mkdir()
    (store.path(1).parent / ".round-000001.parquet.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk is full"):
        store.write(1, [graded(1)])
    assert list(store.path(1).parent.iterdir()) == []


# ---- kill -9 ----


def content_of(round: int) -> list[Graded]:
    return [graded(1000 * round + i, length=4000) for i in range(12)]


def write_for_ever(folder: Path) -> None:
    """A child: goes on after what is there, as a resumed run does, until it is killed."""
    store = RolloutStore(folder)
    while True:
        rounds = store.rounds()
        store.write(rounds[-1] + 1 if rounds else 0, content_of(rounds[-1] + 1 if rounds else 0))


def killed_at(folder: Path, call: str) -> None:
    """A child that dies at one call of the first write, before it has any effect."""

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Path if call == "replace" else os, call, die)
    RolloutStore(folder).write(0, content_of(0))


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rung.rollouts.store"])
    return context


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_just_before_it_counts(tmp_path, processes, call):
    child = processes.Process(target=killed_at, args=(tmp_path, call))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    store = RolloutStore(tmp_path)
    assert store.rounds() == [] and list(store.scan()) == []
    assert len(list(store.path(0).parent.iterdir())) == 1  # the leftover, which nobody takes for a round
    store.discard_after(-1)
    assert list(store.path(0).parent.iterdir()) == []


def test_killed_anywhere_every_round_is_whole(tmp_path, processes):
    store, rng, leftovers = RolloutStore(tmp_path), np.random.default_rng(0), 0
    for kills in range(60):
        if kills >= 15 and leftovers:
            break
        count = len(store.rounds())
        child = processes.Process(target=write_for_ever, args=(tmp_path,))
        child.start()
        deadline = time.monotonic() + 20
        while len(store.rounds()) == count and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.03)
        child.kill()
        child.join()
        leftovers += len(list(store.path(0).parent.glob(".*")))
        assert store.rounds() == list(range(len(store.rounds()))), "a gap"
        newest = store.rounds()[-1]
        assert [bits(r) for r in store.read(newest)] == [bits(r) for r in content_of(newest)]
    assert leftovers > 0, "no kill hit a write; the test has lost its point"
    for round in store.rounds():
        assert len(store.read(round)) == 12
