# ruff: noqa: E501  programs within strings
"""The hostile suite: nothing escapes, nothing passes, the machine is as before, and nothing is left running."""

import os
import shutil
import socket
import time
from pathlib import Path

import psutil
import pytest
from escapes import EXHAUST, FORGE, OTHERS, PRELUDE, REACH

from rung.errors import UserError
from rung.sandbox import bubblewrap
from rung.sandbox.languages import toolchain
from rung.sandbox.pool import Pool
from rung.sandbox.program import Case, Checks, Limits, Program
from rung.sandbox.result import (
    Broken,
    CompileError,
    Failed,
    Killed,
    OutOfMemory,
    OutputTooLong,
    Passed,
    Result,
    Timeout,
)

LIMITS = Limits(
    seconds=1.2,
    total_seconds=4,
    compile_seconds=20,
    memory=128 << 20,
    processes=24,
    output=64 << 10,
    disk=16 << 20,
)
LIMITS_FORGE = Limits(seconds=1.2, total_seconds=3, memory=256 << 20, output=64 << 10, disk=16 << 20)
DOUBLES = Checks(
    (
        "assert f(2) == 4",
        "assert f(5) == 10",
        "assert [f(x) for x in range(3)] == [0, 2, 4]",
        "assert abs(f(1.5) - 3) < 1e-9",
    )
)
BOUND = 20.0  # seconds: a program's limits, the compiler's, and what others on the machine take


@pytest.fixture(scope="module", autouse=True)
def isolated():
    try:
        bubblewrap.require()
    except UserError as error:
        pytest.skip(f"no isolation on this machine: {error}")


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """A secret file, a listener and an environment on this machine, all of which must stay out of reach."""
    folder = tmp_path_factory.mktemp("canary")
    secret = folder / "secret"
    secret.write_text("canary 4f1c\n")
    listener, abstract = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    name = f"rung-test-{os.getpid()}"
    abstract.bind("\0" + name)
    abstract.listen()
    os.environ["CANARY"] = "canary 4f1c"
    yield str(secret), str(listener.getsockname()[1]), name, str(folder)
    del os.environ["CANARY"]
    listener.close()
    abstract.close()


@pytest.fixture(scope="module")
def results(isolated, targets):
    """Every program's result, run in parallel, and how long each took at most."""
    programs: dict[str, Program] = {}
    for name, code in (REACH | EXHAUST).items():
        programs[name] = Program("python", PRELUDE + code, (Case("", "ESCAPED"),), argv=targets)
    for name, (language, code) in OTHERS.items():
        if toolchain(language):
            code = code.replace("SECRET", targets[0]).replace("PORT", targets[1])
            programs[name] = Program(language, code, (Case("", "ESCAPED"),))
    for name, code in FORGE.items():
        programs["forge: " + name] = Program("python", code, DOUBLES)
    before = snapshot()
    with Pool(4) as pool:  # many of them only wait for their end
        names = list(programs)
        limits = [LIMITS_FORGE if name.startswith("forge") else LIMITS for name in names]
        futures = [pool.submit(programs[name], bounds) for name, bounds in zip(names, limits, strict=True)]
        found: dict[str, Result] = {
            name: future.result() for name, future in zip(names, futures, strict=True)
        }
    return found, before, snapshot()


def snapshot():
    null = os.stat("/dev/null")
    return {
        "processes": sum(
            1 for each in processes() if "rung-hostile" in each or "/rung/" in each or "bwrap" in each
        ),
        "null": (null.st_mode, null.st_uid, null.st_rdev),
        "core_pattern": Path("/proc/sys/kernel/core_pattern").read_text(),
        "hostname": socket.gethostname(),
    }


def processes():
    """Command lines of our descendants and of what has no parent any more; others may test beside us."""
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    for each in psutil.process_iter(["cmdline", "ppid"]):
        if each.pid in own or each.info["ppid"] == 1:
            yield " ".join(each.info["cmdline"] or ())


def test_the_suite_is_as_large_as_it_claims():
    assert len(REACH) + len(EXHAUST) + len(OTHERS) + len(FORGE) >= 150
    assert len({language for language, _ in OTHERS.values()}) >= 7


def test_nothing_passes_and_nothing_breaks_the_harness(results):
    found, _, _ = results
    assert {name: result for name, result in found.items() if isinstance(result, Passed)} == {}
    # a program that could break the harness could choose not to be counted
    assert {name: result.detail for name, result in found.items() if isinstance(result, Broken)} == {}


def test_no_secret_comes_out(results):
    for name, result in results[0].items():
        assert "4f1c" not in result.stdout + result.stderr, name
        if not name.endswith("output"):
            assert "ESCAPED" not in result.stdout.replace("b'ESCAPED'", ""), name


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Timeout, ["busy loop", "sleep through signals", "stop itself", "close its output and stay", "a match without end"]),
        (OutOfMemory, ["memory bomb", "memory in children", "shared memory bomb", "a number without end"]),
        (OutputTooLong, ["infinite output", "infinite errors"]),
        (Killed, ["thread bomb", "crash", "abort"]),
        (Failed, ["exit 0", "not UTF-8", "huge names", "all descriptors", "leave a child with the output", "outlive itself"]),
        (Failed, ["fill shared memory", "read a file", "kill the parent", "kill everyone", "unshare", "mount", "forge: always equal"]),
        (Failed, ["forge: one answer for all", "forge: an int that agrees", "forge: exit at once", "forge: huge number"]),
        (OutputTooLong, ["forge: huge answer", "forge: a line without end"]),
    ],
)  # fmt: skip
def test_each_ends_as_what_it_is(results, kind, names):
    ends = {name: results[0][name] for name in names}
    # on a busy machine a bomb may run into its time before it runs into anything else
    allowed = (kind, Timeout) if kind in (OutOfMemory, Killed) else (kind,)
    assert {name: end for name, end in ends.items() if not isinstance(end, allowed)} == {}


def test_what_a_compiler_is_made_to_read_stays_out(results):
    if toolchain("cpp"):
        assert isinstance(results[0]["cpp: include a secret"], CompileError)
        assert isinstance(results[0]["cpp: assemble a secret in"], CompileError)


def test_the_machine_is_as_before_and_nothing_is_left(results, targets):
    _, before, after = results
    assert after == before
    assert sorted(os.listdir(targets[3])) == ["secret"]
    assert Path(targets[0]).read_text() == "canary 4f1c\n"


def test_every_program_stays_within_its_bound(results):
    for name, result in results[0].items():
        assert result.seconds < BOUND, name


def test_a_flood_is_stopped_in_time():
    """At its first message that answers nothing, and not message by message."""
    started = time.monotonic()
    with Pool(1) as pool:
        end = pool.submit(Program("python", FORGE["flood the wire"], DOUBLES), LIMITS_FORGE).result()
    assert isinstance(end, Failed) and "without being asked" in end.why
    assert time.monotonic() - started < 3 * LIMITS_FORGE.total_seconds


def test_disk_is_bounded_and_given_back(targets):
    used = shutil.disk_usage("/").used
    code = "f = open('x', 'wb')\ntry:\n  while True: f.write(bytes(1 << 20)); f.flush()\nexcept OSError: print(f.tell() >> 20)"
    with Pool(1) as pool:
        result = pool.submit(
            Program("python", "import signal; signal.signal(25, 1)\n" + code), LIMITS
        ).result()
    assert isinstance(result, Passed) and int(result.stdout) <= 16
    assert shutil.disk_usage("/").used - used < 100 << 20


@pytest.mark.parametrize("name", ["read a file", "read through a link", "own environment", "TCP to the machine", "abstract socket", "see other processes", "ptrace a child"])  # fmt: skip
def test_the_attacks_are_real(targets, name, capfd):
    """Without a sandbox the same programs do print ESCAPED: what stops them is the sandbox."""
    code = PRELUDE + REACH[name]
    environment = "import os; os.environ['CANARY'] = 'canary'\n" if "environment" in name else ""
    with Pool(1, unsafe=True) as pool:
        result = pool.submit(
            Program("python", environment + code, (Case("", "ESCAPED"),), argv=targets), LIMITS
        ).result()
    assert isinstance(result, Passed), result
    assert "UNSAFE" in capfd.readouterr().err


def test_one_program_sees_nothing_of_the_one_before():
    leave = "import os\nfor d in ('/tmp', '/dev/shm', '.'): open(d + '/left', 'w').write('x')\nif os.fork() == 0:\n  import time; time.sleep(9)"
    look = "import os\nprint([os.path.exists(d + '/left') for d in ('/tmp', '/dev/shm', '.')], len([p for p in os.listdir('/proc') if p.isdigit()]))"
    with Pool(1) as pool:
        first, second = pool.map([Program("python", leave), Program("python", look)], LIMITS)
    assert isinstance(first, Passed) and first.seconds < 1.4
    assert second.stdout.split() == ["[False,", "False,", "False]", "2"]


def test_a_dead_trainer_leaves_nothing_running(tmp_path):
    import signal
    import subprocess
    import sys

    code = (
        "from rung.sandbox.pool import Pool\nfrom rung.sandbox.program import *\n"
        "pool = Pool(1); pool.submit(Program('python', 'import time; time.sleep(1)\\nprint(1, flush=True)\\ntime.sleep(60)'), Limits(seconds=60))\n"
        "import time; time.sleep(0.7); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    inside = descendants(process.pid)
    assert len(inside) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in inside) and time.monotonic() < until:
        time.sleep(0.02)
    assert [pid for pid in inside if Path(f"/proc/{pid}").exists()] == []


def descendants(pid):
    from rung.sandbox.box import family

    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found
