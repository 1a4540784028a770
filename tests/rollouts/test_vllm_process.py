"""A worker process that lies on its socket's other end: prints, dies, hangs, is interrupted, outlives nobody."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rung.errors import UserError
from rung.rollouts.vllm_process import WorkerFailed, WorkerProcess

SCRIPT = """
import json, os, signal, socket, subprocess, sys, time
connection = socket.socket(fileno=int(sys.argv[1]))
for line in connection.makefile():
    message = json.loads(line)
    answer = {"done": message.get("value")}
    match message["do"]:
        case "print":
            print('{"number": 1, "done": "a lie"}', flush=True)
            os.write(2, b'{"number": 1, "done": "another"}\\n')
        case "refuse": answer = {"refused": "for a reason"}
        case "fail":
            print("a long story", flush=True)
            answer = {"failed": "ValueError: told"}
        case "exit":
            print("farewell", flush=True)
            os._exit(3)
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "child": answer = {"done": subprocess.Popen(["sleep", "1000"]).pid}
        case "sleep": time.sleep(message["value"])
        case "path": answer = {"done": os.environ.get("PYTHONPATH")}
    connection.sendall(json.dumps({"number": message["number"], **answer}).encode() + b"\\n")
open(sys.argv[0] + ".left", "w").write("gracefully")
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def worker(script, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    worker = WorkerProcess("the worker", sys.executable, script, seconds=20)
    yield worker
    worker.close()


def gone(pid: int) -> bool:
    """Within five seconds; a process nobody has asked after yet is as good as gone."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_prints_do_not_disturb_it_and_our_pythonpath_is_not_its(worker):
    assert worker.ask("print", value="the truth") == "the truth"
    assert worker.ask("echo", value=["ü", 1.5]) == ["ü", 1.5]
    assert worker.ask("path") is None


def test_long_messages_go_both_ways(worker):
    numbers = list(range(300_000))
    assert worker.ask("echo", value=numbers) == numbers


def test_refusals_and_failures_are_told_and_it_lives_on(worker):
    with pytest.raises(UserError, match=r"the worker refuses to refuse: for a reason\."):
        worker.ask("refuse")
    with pytest.raises(
        WorkerFailed, match=r"failed at `fail`: ValueError: told\nIts last words:\na long story"
    ):
        worker.ask("fail")
    assert worker.ask("echo", value=1) == 1


@pytest.mark.parametrize(
    ("how", "end"), [("exit", r"\(exit status 3\)\.\nIts last words:\nfarewell"), ("kill", r"\(SIGKILL\)")]
)
def test_death_is_told_with_its_last_words(worker, how, end):
    with pytest.raises(WorkerFailed, match=r"the worker died at `\w+` " + end):
        worker.ask(how)
    assert not worker.folder.exists()
    with pytest.raises(WorkerFailed, match="was closed"):
        worker.ask("echo", value=1)


def test_a_hang_ends_with_everything_it_started(script):
    worker = WorkerProcess("the worker", sys.executable, script, seconds=20)
    child = worker.ask("child")
    worker.seconds, began = 0.5, time.monotonic()
    with pytest.raises(WorkerFailed, match=r"did not answer to `sleep` within 0\.5 s"):
        worker.ask("sleep", value=1000)
    assert time.monotonic() - began < 5
    assert worker.process.returncode == -signal.SIGKILL and gone(child)


def test_it_is_let_to_end_by_itself(script):
    worker = WorkerProcess("the worker", sys.executable, script, seconds=20)
    assert worker.ask("echo", value=1) == 1
    worker.close()
    worker.close()
    assert Path(f"{script}.left").read_text() == "gracefully"
    assert worker.process.returncode == 0 and not worker.folder.exists()


def test_the_answer_to_an_interrupted_question_is_not_taken_for_the_next(worker):
    assert worker.ask("echo", value=0) == 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.ask("sleep", value=0.8)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert worker.ask("echo", value="mine") == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when it next reads")
def test_it_dies_with_a_parent_that_is_killed(script):
    """Even while it is deep in something: it sleeps when the parent is killed."""
    from rung.rollouts import vllm_worker

    serve = Path(vllm_worker.__file__).with_name("serve.py")
    script.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {str(serve.parent)!r})\n"
        "import serve\n"
        "def sleep(settings): time.sleep(1000)\n"
        "serve.load_fingerprint = lambda path: None\n"
        "serve.main(sleep)\n"
    )
    parent = (
        "import sys\nfrom pathlib import Path\nfrom rung.rollouts.vllm_process import WorkerProcess\n"
        f"worker = WorkerProcess('it', sys.executable, Path({str(script)!r}), 100)\n"
        "print(worker.process.pid, flush=True)\nworker.ask('open', fingerprint='')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    time.sleep(1)
    os.kill(pid, 0)
    process.kill()
    process.wait()
    assert gone(pid)


def test_a_python_that_cannot_start_is_named(script):
    with pytest.raises(UserError, match=r"cannot be started with /no/python: No such file"):
        WorkerProcess("the worker", "/no/python", script, seconds=1)
