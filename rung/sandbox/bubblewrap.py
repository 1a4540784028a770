"""The walls of a sandbox: the bubblewrap command line, and whether this machine can build them.

Everything is taken away and a little given back: the system's programs and libraries and the toolchains,
read-only; four devices; one memory-backed folder, /tmp, of a bounded size. No home, no environment, no
network, no terminal, no capability, no further namespace, no writable byte that outlives the sandbox.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

from rung.errors import UserError
from rung.sandbox.devices import devices

INSIDE = Path(__file__).parent / "inside"
WORK = "/tmp/work"
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
}
SYSTEM = ("/usr", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
OLDEST = (0, 8)  # the first with --disable-userns; --size came shortly before
INSTALL = """install it:
    apt-get install bubblewrap      (Debian, Ubuntu; dnf or pacman install bubblewrap elsewhere)
or run the programs on this machine as they are, with all you may do and see, with --unsafe (unsafe=True)"""


def arguments(mounts: tuple[str, ...], disk: int, seccomp: int | None) -> list[str]:
    """The command line up to the program. `seccomp` is the descriptor to read the filter from."""
    line = [
        found(),
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--uid",
        "65534",
        "--gid",
        "65534",
    ]
    line += ["--hostname", "sandbox", "--new-session", "--die-with-parent", "--as-pid-1", "--clearenv"]
    for path in SYSTEM:
        if Path(path).exists():
            line += ["--ro-bind", path, path]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (top := Path("/") / name).is_symlink():
            line += ["--symlink", str(top.readlink()), str(top)]
        elif top.exists():
            line += ["--ro-bind", str(top), str(top)]
    # before the mounts, because a toolchain may stand in /tmp
    line += ["--size", str(disk), "--perms", "0700", "--tmpfs", "/tmp"]
    for place in mounts:
        line += ["--ro-bind", place, place]
    line += ["--ro-bind", str(INSIDE), "/rung", "--proc", "/proc", "--remount-ro", "/proc", "--dir", "/dev"]
    for device, node in devices().items():
        line += ["--dev-bind", node, f"/dev/{device}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        line += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    line += ["--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/tmp/shm", "/dev/shm"]
    line += ["--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in ENVIRONMENT.items():
        line += ["--setenv", name, value]
    return line if seccomp is None else [*line, "--seccomp", str(seccomp)]


def python_mounts() -> tuple[str, ...]:
    """The interpreter outside any virtual environment, if it does not stand in /usr."""
    return () if sys.base_prefix == "/usr" else (sys.base_prefix,)


def python() -> str:
    """The interpreter that runs the launcher and Python programs: ours, without its virtual environment."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (Path(sys.base_prefix) / "bin", Path(sys.base_exec_prefix) / "bin"):
        if (folder / name).exists():
            return str(folder / name)
    return str(Path(sys.executable).resolve())


def found() -> str:
    """Where bubblewrap is; a UserError where it is not, or too old."""
    path = shutil.which("bwrap")
    if path is None:
        raise UserError(f"untrusted programs run in bubblewrap, and there is no bwrap on the PATH; {INSTALL}")
    if version(path) < OLDEST:
        raise UserError(
            f"{path} is bubblewrap {'.'.join(map(str, version(path)))}, which cannot bound what is written or "
            f"forbid further namespaces; {'.'.join(map(str, OLDEST))} or newer can; {INSTALL}"
        )
    return path


@functools.cache
def version(path: str) -> tuple[int, ...]:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    return tuple(map(int, re.findall(r"\d+", text)))[:3]


@functools.cache
def require() -> None:
    """A UserError unless every wall stands: bubblewrap builds all of them or none."""
    command = [*arguments((), 1 << 20, None), "/bin/true"]
    try:
        trial = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        raise UserError(f"bubblewrap did not answer within 20 s ({' '.join(command[:4])} ...)") from None
    if trial.returncode:
        raise UserError(
            f"bubblewrap cannot isolate programs on this machine: {trial.stderr.strip() or trial.returncode}. "
            "It needs unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1 or, on Ubuntu, "
            "kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined). "
            "Without them nothing is isolated, so nothing is run, unless you say --unsafe (unsafe=True)."
        )
