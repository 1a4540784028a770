"""The hostile suite: whatever a reward does, its attempt fails in time, the others are right, nothing is left."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import hostile
import psutil
import pytest

from rung.errors import UserError
from rung.rewards import workers
from rung.rewards.matching import Exact, Regex
from rung.rewards.score import Abstain, Attempt, Failure, Score
from rung.rewards.user import load_reward
from rung.rewards.workers import Graders

LIMITS = dict(wall_seconds=2.0, cpu_seconds=30, memory_bytes=1 << 30)
KINDS = {
    "spin": "timeout",
    "sleep": "timeout",
    "deaf": "timeout",
    "swallow": "timeout",
    "stop": "timeout",
    "daemon, then spin": "timeout",
    "allocate": "memory",
    "hoard": "memory",
    "segfault": "crash",
    "abort": "crash",
    "exit": "crash",
    "close": "crash",
    "sys.exit": "exception",
    "interrupt": "exception",
    "raise": "exception",
    "recurse": "exception",
    "NaN part": "exception",
    "None": "invalid",
    "NaN": "invalid",
    "infinite": "invalid",
    "string": "invalid",
    "list": "invalid",
    "complex": "invalid",
    "fail": "invalid",
}
UNTIDY = ["child", "fork", "daemon", "thread", "print"]


def attempts(*answers):
    return [Attempt((), str(answer)) for answer in answers]


MARK = f"RUNG_TEST_{uuid.uuid4().hex}"  # in the environment of whatever these tests start, wherever it goes


@pytest.fixture(autouse=True, scope="module")
def mark():
    os.environ[MARK] = "1"
    yield
    del os.environ[MARK]


def family():
    """Every process that these tests brought about, also one that left our tree; the dead do not count."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != "zombie" and MARK in process.environ():
                found.add(process.pid)
    return found


def soon(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module")
def graders(mark):
    with Graders(hostile.misbehave, workers=3, **LIMITS) as pool:
        yield pool


def test_all_of_them_among_honest_ones_in_one_call():
    before = family()
    answers, n = [], 0
    for what in [*KINDS, *UNTIDY, "abstain"]:
        answers += [what, n, n + 1]
        n += 2
    begun = time.monotonic()
    with Graders(hostile.misbehave, workers=4, **LIMITS) as pool:
        verdicts = pool.grade(attempts(*answers))
        took = time.monotonic() - begun
        assert soon(lambda: len(family() - before) <= 1 + 4), "more remains than the server and its workers"
        assert pool.grade(attempts(5, 6)) == [Score(5.0), Score(6.0)]
    for answer, verdict in zip(answers, verdicts, strict=True):
        if isinstance(answer, int):
            assert verdict == Score(float(answer))
        elif answer in KINDS:
            assert isinstance(verdict, Failure) and verdict.kind == KINDS[answer], (answer, verdict)
        else:
            assert verdict == (Abstain("a tie") if answer == "abstain" else Score(1.0)), answer
    assert took < 40  # six of two seconds each on four workers, on a machine that has other work
    assert soon(lambda: family() <= before), "a process was left behind"


@pytest.mark.parametrize(
    "what", [what for what, kind in KINDS.items() if kind != "timeout" or what == "spin"]
)
def test_each_alone_fails_in_its_kind_within_its_bound(graders, what):
    begun = time.monotonic()
    (verdict,) = graders.grade(attempts(what))
    assert isinstance(verdict, Failure) and verdict.kind == KINDS[what]
    assert verdict.detail
    assert time.monotonic() - begun < LIMITS["wall_seconds"] + 8
    assert graders.grade(attempts(3)) == [Score(3.0)]


@pytest.mark.parametrize("what", ["child", "thread"])
def test_a_worker_with_something_left_over_is_replaced(what):
    before = family()
    with Graders(hostile.misbehave, workers=1, **LIMITS) as pool:
        first, _, second, third = pool.grade(attempts("pid", what, "pid", "pid"))
        assert first != second == third
        assert soon(lambda: len(family() - before) <= 2), "more than the server and its worker"


def test_a_verdict_that_comes_twice_counts_once():
    with Graders(hostile.misbehave, workers=1, **LIMITS) as pool:
        assert pool.grade(attempts("twin", "doze", 5)) == [Score(1.0), Score(1.0), Score(5.0)]


def test_processor_time_is_bounded_too():
    with Graders(hostile.misbehave, workers=1, wall_seconds=60, cpu_seconds=1, memory_bytes=1 << 30) as pool:
        verdicts = pool.grade(attempts(1, "spin", 2))
    assert verdicts[::2] == [Score(1.0), Score(2.0)]
    assert verdicts[1] == Failure("timeout", "no verdict after 1 s of processor time")


def test_workers_are_used_again_and_do_not_know_torch(graders):
    pids = {verdict.value for verdict in graders.grade(attempts(*["pid"] * 60))}
    assert 1 <= len(pids) <= 3 and os.getpid() not in pids
    assert graders.grade(attempts("torch")) == [Score(0.0)]


def test_order_is_kept(graders):
    assert graders.grade(attempts(*range(300))) == [Score(float(i)) for i in range(300)]
    assert graders.grade([]) == []


def test_attempts_of_many_megabytes_both_ways(graders):
    large = [Attempt((), "7", reference="x" * (8 << 20)) for _ in range(6)]
    assert graders.grade(large) == [Score(7.0)] * 6


def test_grading_goes_on_while_the_caller_works(tmp_path):
    with Graders(hostile.note, workers=2, **LIMITS) as pool:
        first = pool.submit([Attempt((), "0", tmp_path / "first")])
        assert soon((tmp_path / "first").exists)  # graded with nobody waiting
        slow = pool.submit([Attempt((), "1.5", tmp_path / "slow")])
        quick = pool.submit([Attempt((), "0", tmp_path / "quick")])
        assert quick.verdicts() == [Score(1.0)] and not slow.done()
        assert slow.verdicts() == first.verdicts() == [Score(1.0)]


def test_from_threads_and_from_asyncio(graders):
    seen = {}

    def one(start):
        seen[start] = graders.grade(attempts(*range(start, start + 20)))

    threads = [threading.Thread(target=one, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {start: [Score(float(i)) for i in range(start, start + 20)] for start in (0, 100, 200)}

    async def several():
        handles = [graders.submit(attempts(what)) for what in (1, "segfault", 2)]
        return [await asyncio.wrap_future(handle.futures[0]) for handle in handles]

    first, crashed, second = asyncio.run(several())
    assert (first, second) == (Score(1.0), Score(2.0)) and crashed.kind == "crash"


def test_made_in_a_thread_that_ends():
    made = []
    maker = threading.Thread(target=lambda: made.append(Graders(hostile.misbehave, workers=1, **LIMITS)))
    maker.start()
    maker.join()
    with made[0] as pool:
        time.sleep(0.3)  # PR_SET_PDEATHSIG would speak of the thread
        assert pool.grade(attempts(1, "exit", 2))[::2] == [Score(1.0), Score(2.0)]


TRAINER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
sys.path[:0] = {path!r}
import hostile
from rung.rewards.score import Attempt
from rung.rewards.workers import Graders
with Graders(hostile.misbehave, workers=3, wall_seconds=1000, memory_bytes=1 << 30) as pool:
    pool.grade([Attempt((), "daemon")])
    handle = pool.submit([Attempt((), what) for what in ("daemon, then spin", "deaf", "child", "sleep")])
    time.sleep(1)
    print("now", flush=True)
    handle.verdicts()
"""


@pytest.mark.parametrize(
    ("how", "stopped"),
    [(signal.SIGKILL, False), (signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGKILL, True)],
)
def test_the_end_of_the_trainer_is_the_end_of_all(how, stopped):
    before = family()
    code = TRAINER.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[2])])
    trainer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert trainer.stdout.readline() == b"now\n"
    assert len(family() - before) >= 6  # itself, the server, three workers and a daemon
    if stopped:
        (server,) = psutil.Process(trainer.pid).children()
        server.suspend()
    trainer.send_signal(how)
    try:
        trainer.wait(30)
    finally:
        trainer.kill()
        trainer.stdout.close()
    assert soon(lambda: family() <= before), "a process was left behind"


def test_a_dead_server_fails_what_it_held_and_is_replaced():
    before = family()
    with Graders(hostile.misbehave, workers=1, **LIMITS) as pool:
        held = pool.submit(attempts("sleep", 1))
        time.sleep(0.5)  # by now a worker sleeps, and would not see that nobody speaks to it
        os.kill(pool._process.pid, signal.SIGKILL)
        assert [verdict.kind for verdict in held.verdicts(20)] == ["crash", "crash"]
        assert soon(lambda: not family() - before), "its worker outlived it"
        assert pool.grade(attempts(4)) == [Score(4.0)]


def test_a_stopped_server_is_killed_with_all_it_started_and_its_attempts_fail(monkeypatch):
    monkeypatch.setattr(workers, "SILENT_TICKS", 2)
    before = family()
    with Graders(hostile.misbehave, workers=2, **LIMITS) as pool:
        assert pool.grade(attempts(1, 2)) == [Score(1.0), Score(2.0)]
        stopped = pool._process.pid
        begun = time.monotonic()
        verdicts = pool.submit(attempts("stop the server", "sleep", 5)).verdicts(20)
        assert time.monotonic() - begun < 2 + 8
        assert [verdict.kind for verdict in verdicts[:2]] == ["timeout"] * 2
        assert verdicts[2] in (Score(5.0), verdicts[0]), "a verdict that neither came in time nor failed"
        assert "silent for 2 s" in verdicts[0].detail
        assert soon(lambda: family() <= before), "the server, a worker or a daemon was left behind"
        assert pool.grade(attempts(4, 5)) == [Score(4.0), Score(5.0)] and pool._process.pid != stopped
    assert soon(lambda: family() <= before)


def test_a_server_that_is_stopped_while_idle_neither_blocks_a_large_submit_nor_closing(monkeypatch):
    monkeypatch.setattr(workers, "SILENT_TICKS", 2)
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    before = family()
    with Graders(hostile.misbehave, workers=1, **LIMITS) as pool:
        os.kill(pool._process.pid, signal.SIGSTOP)
        large = pool.submit([Attempt((), "7", reference="x" * (8 << 20))])  # more than the socket holds
        assert [verdict.kind for verdict in large.verdicts(20)] == ["timeout"]
        assert pool.grade(attempts(4)) == [Score(4.0)]
        os.kill(pool._process.pid, signal.SIGSTOP)
    assert soon(lambda: family() <= before), "a stopped server outlived its pool"


def test_an_idle_server_and_a_slow_reward_are_no_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SILENT_TICKS", 2)
    with Graders(hostile.note, workers=1, wall_seconds=20) as pool:
        server = pool._process.pid
        time.sleep(2.2)
        assert pool.grade([Attempt((), "2.5", tmp_path / "note")]) == [Score(1.0)]
        assert pool._process.pid == server


def test_a_worker_that_is_stopped_while_idle_costs_one_attempt_and_is_killed():
    before = family()
    with Graders(hostile.misbehave, workers=1, **LIMITS) as pool:
        pid = int(pool.grade(attempts("pid"))[0].value)
        os.kill(pid, signal.SIGSTOP)
        verdicts = pool.submit(attempts(1, 2, 3)).verdicts(20)
        assert verdicts[0] == Failure("timeout", "no verdict after 2 s")
        assert verdicts[1:] == [Score(2.0), Score(3.0)]
        assert soon(lambda: not psutil.pid_exists(pid))
    assert soon(lambda: family() <= before)


def test_a_server_that_is_stopped_as_it_starts_is_told_and_left_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "LOADING_SECONDS", -29.0)  # and 30 for the process itself
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    before = family()
    body = "import os, signal, sys\n"
    body += "'pytest' in sys.modules or os.kill(os.getppid(), signal.SIGSTOP)\ndef f(attempt): return 1.0\n"
    with pytest.raises(UserError, match="ended or hung as it started"):
        Graders(user(tmp_path, body), workers=1)
    assert soon(lambda: family() <= before)


def test_handing_in_much_while_many_verdicts_come_back(tmp_path):
    """Whoever sends must not keep the reader from reading: else both ends of the socket wait for each other."""
    reward = user(tmp_path, "def f(completions: list[str], **columns): return [1.0] * len(completions)\n")
    with Graders(reward, workers=2, wall_seconds=20) as pool:
        handed = []
        many = attempts(*["x" * 1000] * 2000)
        giver = threading.Thread(
            target=lambda: handed.extend(pool.submit(many) for _ in range(10)), daemon=True
        )
        giver.start()
        giver.join(30)
        assert not giver.is_alive(), "submit waits for a server that waits for us"
        assert all(verdict == Score(1.0) for each in handed for verdict in each.verdicts(20))


def test_closing_wakes_who_waits():
    pool = Graders(hostile.misbehave, workers=1, wall_seconds=100)
    handle = pool.submit(attempts("sleep"))
    threading.Timer(0.3, pool.close).start()
    with pytest.raises(RuntimeError, match="closed"):
        handle.verdicts(20)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(attempts(1))
    pool.close()


def test_what_is_trusted_is_graded_here_without_any_process():
    before = family()
    with Graders(Exact()) as pool:
        assert pool.grade([Attempt((), "a", "a"), Attempt((), "b", "a")]) == [Score(1.0), Score(0.0)]
        assert isinstance(pool.grade([Attempt((), "a")])[0], Failure)
        assert family() == before


def test_a_pattern_that_never_ends():
    with Graders(Regex("^(a+)+b"), workers=2, **LIMITS) as pool:
        verdicts = pool.grade(attempts("a" * 50, "aab"))
    assert verdicts[0].kind == "timeout" and verdicts[1] == Score(1.0)


def user(tmp_path, body, name="f"):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(body))
    return load_reward(f"{file}:{name}")


def test_only_the_guilty_of_a_batch_fails(tmp_path):
    reward = user(
        tmp_path,
        """
        import os, time
        def f(completions: list[str], **columns):
            if "die" in completions: os._exit(1)
            if "hang" in completions: time.sleep(100)
            if "raise" in completions: 1 / 0
            scores = [None if text == "none" else len(completions) for text in completions]
            return scores[1:] if "lose" in completions else scores
        """,
    )
    with Graders(reward, workers=2, **LIMITS) as pool:
        assert pool.grade(attempts("a", "b", "none")) == [Score(3.0), Score(3.0), Abstain("f returned None")]
        for guilty, kind in [
            ("die", "crash"),
            ("hang", "timeout"),
            ("raise", "exception"),
            ("lose", "invalid"),
        ]:
            verdicts = pool.grade(attempts("a", guilty, "b"))
            assert verdicts[::2] == [Score(1.0), Score(1.0)], guilty
            assert verdicts[1].kind == kind
        assert pool.grade(attempts(*"abcd")) == [Score(4.0)] * 4


def test_an_interrupt_inside_a_batch(tmp_path):
    body = """
    def f(completions: list[str], **columns):
        if "x" in completions: raise KeyboardInterrupt
        return [1.0] * len(completions)
    """
    with Graders(user(tmp_path, body), workers=1, **LIMITS) as pool:
        verdicts = pool.grade(attempts("a", "x"))
    assert verdicts[0] == Score(1.0) and verdicts[1].kind == "exception"


def test_a_reward_of_a_users_own_class(tmp_path):
    body = """
    from dataclasses import dataclass
    from rung.rewards.score import Score
    @dataclass(frozen=True)
    class Mine:
        factor: float
        def __call__(self, attempt):
            return Score(self.factor * len(attempt.answer))
    def f(attempt): return 0.0
    """
    user(tmp_path, body)
    from rung.rewards.user import load_file

    mine = load_file(str(tmp_path / "mine.py")).Mine(2.0)
    with Graders(mine, workers=1, **LIMITS) as pool:
        assert pool.grade(attempts("abc")) == [Score(6.0)]


def test_what_cannot_be_sent_or_loaded_is_told_at_once(tmp_path):
    before = family()
    with pytest.raises(UserError, match="top level"):
        Graders(lambda attempt: 1.0)
    body = "import sys\nassert 'pytest' in sys.modules, 'only here'\ndef f(attempt): return 1.0\n"
    with pytest.raises(UserError, match="only here"):
        Graders(user(tmp_path, body))
    (tmp_path / "dead").mkdir()
    dead = "import os, sys\n'pytest' in sys.modules or os._exit(3)\ndef f(attempt): return 1.0\n"
    with pytest.raises(UserError, match="status 3"):
        Graders(user(tmp_path / "dead", dead))
    for wrong in (dict(workers=0), dict(wall_seconds=0.0), dict(memory_bytes=1000)):
        with pytest.raises(UserError):
            Graders(hostile.misbehave, **wrong)
    assert soon(lambda: family() <= before)


def test_a_reward_that_can_be_loaded_only_once_does_not_stall(tmp_path):
    once = "from pathlib import Path\nimport os, sys\n"
    once += "mark = Path(__file__).with_suffix('.mark')\n"
    once += "'pytest' in sys.modules or mark.touch(exist_ok=False)\n"
    once += "def f(attempt):\n    return os._exit(1) if attempt.answer == 'die' else 1.0\n"
    with Graders(user(tmp_path, once), workers=1, **LIMITS) as pool:
        verdicts = pool.grade(attempts("a", "die", "b", "c"))
    assert verdicts[0] == Score(1.0)
    assert [verdict.kind for verdict in verdicts[1:]] == ["crash", "exception", "exception"]
    assert "loaded again" in verdicts[2].detail


def test_what_rewards_print_goes_where_messages_go(capfd):
    with Graders(hostile.misbehave, workers=1, **LIMITS) as pool:
        assert pool.grade(attempts("print", 2)) == [Score(1.0), Score(2.0)]
    out, err = capfd.readouterr()
    assert out == "" and err.count("x") >= 100_000
