"""The parts of the walls that do not need bubblewrap: the filter by an interpreter of its own, the groups by a
tree of plain files, the extraction of code."""

import errno
import struct

import pytest

from rung.sandbox import cgroup, seccomp
from rung.sandbox.extract import extract

X86, ARM = 0xC000003E, 0xC00000B7


def verdict(machine, audit, number, argument=0):
    """What the kernel would do: the filter, interpreted."""
    code = seccomp.program(machine)
    assert code is not None and len(code) % 8 == 0
    steps = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    data = struct.pack("=IIQ6Q", number, audit, 0, argument, *[0] * 5)
    place, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = steps[place]
        place += 1
        if operation == 0x20:  # load a word
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif operation == 0x06:  # return
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
            place += if_true if holds[operation] else if_false


REFUSE, ABSENT, FAMILY = (0x50000 | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
ALLOW, KILL = 0x7FFF0000, 0x80000000


@pytest.mark.parametrize(
    ("machine", "audit", "number", "argument", "wanted"),
    [
        ("x86_64", X86, 0, 0, ALLOW),  # read
        ("x86_64", X86, 59, 0, ALLOW),  # execve
        ("x86_64", X86, 101, 0, REFUSE),  # ptrace
        ("x86_64", X86, 165, 0, REFUSE),  # mount
        ("x86_64", X86, 272, 0, REFUSE),  # unshare
        ("x86_64", X86, 56, 17, ALLOW),  # clone as fork does
        ("x86_64", X86, 56, 0x3D0F00, ALLOW),  # clone as a thread does
        *[
            ("x86_64", X86, 56, flag | 17, REFUSE)
            for flag in (0x20000, 0x2000000, 0x4000000, 0x10000000, 0x40000000)
        ],
        ("x86_64", X86, 435, 0, ABSENT),  # clone3
        ("x86_64", X86, 425, 0, ABSENT),  # io_uring_setup
        *[("x86_64", X86, 41, family, ALLOW) for family in (1, 2, 10)],
        *[("x86_64", X86, 41, family, FAMILY) for family in (0, 3, 16, 17, 38, 40)],
        ("x86_64", X86, 302, 0, ALLOW),  # prlimit of oneself
        ("x86_64", X86, 302, 1, REFUSE),
        ("x86_64", X86, 0x40000000 + 101, 0, KILL),  # the x32 numbering
        ("x86_64", 0x40000003, 26, 0, KILL),  # 32-bit calls
        ("aarch64", ARM, 63, 0, ALLOW),  # read
        ("aarch64", ARM, 117, 0, REFUSE),  # ptrace
        ("aarch64", ARM, 220, 0x10000000, REFUSE),  # clone
        ("aarch64", ARM, 198, 40, FAMILY),  # socket(AF_VSOCK)
        ("aarch64", X86, 63, 0, KILL),
    ],
)
def test_the_filter_decides(machine, audit, number, argument, wanted):
    assert verdict(machine, audit, number, argument) == wanted


def test_an_unknown_processor_has_no_filter():
    assert seccomp.program("riscv64") is None


def test_the_numbers_are_this_machine_s():
    """Against the kernel's own header, where it is installed."""
    import platform
    import re
    from pathlib import Path

    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if platform.machine() != "x86_64" or not header.exists():
        pytest.skip("no kernel headers for x86-64 here")
    numbers = {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)", header.read_text())}
    ours = {name: pair[0] for name, pair in seccomp.REFUSED.items()} | seccomp.ABSENT
    ours |= {"clone": seccomp.CLONE[0], "socket": seccomp.SOCKET[0], "prlimit64": seccomp.PRLIMIT[0]}
    assert {name: numbers[name] for name in ours if name in numbers} == {
        n: ours[n] for n in ours if n in numbers
    }
    assert len(ours.keys() - numbers.keys()) < 8  # newer calls than the header


# ---- control groups ----


def test_a_group_is_made_in_the_nearest_place_that_can_bound(tmp_path, monkeypatch):
    """Version 2: the files appear in a new folder where the controllers are given, here in user/ and below."""
    make = type(tmp_path).mkdir

    def mkdir(path, *args, **keywords):
        make(path, *args, **keywords)
        (path / "cgroup.procs").touch()
        if path.parent.name == "user":
            (path / "memory.max").touch(), (path / "pids.max").touch()

    own = tmp_path / "own"
    own.write_text("0::/user/session\n")
    make(tmp_path / "user"), make(tmp_path / "user/session")
    monkeypatch.setattr(type(tmp_path), "mkdir", mkdir)
    monkeypatch.setattr(type(tmp_path), "rmdir", lambda path: __import__("shutil").rmtree(path))
    assert cgroup.parents(tmp_path, own) == (tmp_path / "user",)
    own2 = tmp_path / "own2"
    own2.write_text("0::/elsewhere\n")
    assert cgroup.parents(tmp_path, own2) == ()


@pytest.mark.parametrize(
    "text", ["low 0\noom 2\noom_kill 1\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"]
)
def test_both_versions_tell_of_a_kill_for_memory(tmp_path, text):
    group = cgroup.Group((tmp_path,))
    assert not group.ran_out()
    file = tmp_path / ("memory.events" if "low" in text else "memory.oom_control")
    file.write_text(text)
    assert group.ran_out()
    file.write_text(text.replace("oom_kill 1", "oom_kill 0"))
    assert not group.ran_out()


# ---- code in answers ----


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("no code here", None),
        ("", None),
        ("`f(x)` inline only", None),
        ("```python\na\n```", "a\n"),
        ("Text\n```py\na\n```\nmore", "a\n"),
        ("```\na\n```", "a\n"),
        ("```\na\n```\n```python\nb\n```", "b\n"),
        ("```python\na\n```\nNo, better:\n```python\nb\n```", "b\n"),
        ("```python\na\n```\n```bash\npip install b\n```", "a\n"),
        ("```bash\npip install b\n```", None),
        ("```python\nnever closed", "never closed"),
        ("~~~python\na\n```\n~~~", "a\n```\n"),
        ("````python\na\n```\nb\n````", "a\n```\nb\n"),
        ("1. list\n   ```Python\n   a\n   ```", "   a\n"),
        ("```python {.numbered}\na\n```", "a\n"),
    ],
)
def test_the_code_of_an_answer(answer, code):
    assert extract(answer) == code


def test_an_example_of_use_is_not_the_solution():
    answer = "```python\ndef f(x): return x\n```\nUse it:\n```python\nprint(f(3))\n```\n"
    assert extract(answer, "python", ("f",)) == "def f(x): return x\n"
    better = answer + "```python\ndef f(x): return 2 * x\n```"
    assert extract(better, "python", ("f",)) == "def f(x): return 2 * x\n"
    assert extract(answer, "python", ("g",)) == "print(f(3))\n"
