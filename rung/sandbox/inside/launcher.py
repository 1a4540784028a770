"""The first process of a sandbox: takes orders on fd 0, runs programs one after another, reports on fd 1.

It is the part inside that is trusted, and it shares its user with the programs, so it protects itself: as
process 1 of its namespace no signal from inside reaches it, it is not dumpable so that /proc/1 shows neither
its memory nor its files, and programs inherit none of its descriptors. It measures time and output, watches
memory and processes where the kernel does not bound them, and kills everything else after each run.

An order is a JSON header and its blobs: {"do": "files"|"run", ...}. See rung.sandbox.box for the other end.
"""

import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time

CHANNEL = 3  # a socket to the outside for programs that answer calls; given only to those
ALONE = os.getpid() == 1
BLOCK = 1 << 16
WATCH = 0.025  # seconds between two looks at memory and processes
STDERR_KEPT = 64 << 10


def main(folder, channel):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as process 1: ignored
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, for when there is no namespace
    os.makedirs(folder, exist_ok=True)
    if ALONE:
        os.makedirs("/tmp/shm", exist_ok=True)
    os.chdir(folder)
    # the orders move to private descriptors, away from 0, 1 and 2
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    while order := read(orders):
        header, blobs = order
        if header["do"] == "files":
            for name, blob in zip(header["names"], blobs, strict=True):
                save(name, blob)
            write(answers, {"done": True})
        else:
            write(answers, *run(header, blobs[0], channel))


def read(stream):
    size = stream.read(4)
    if len(size) < 4:
        return None
    header = json.loads(stream.read(struct.unpack("<I", size)[0]))
    return header, [stream.read(length) for length in header["blobs"]]


def write(stream, header, *blobs):
    head = json.dumps(header | {"blobs": [len(blob) for blob in blobs]}).encode()
    stream.write(b"".join([struct.pack("<I", len(head)), head, *blobs]))
    stream.flush()


def save(name, blob):
    if os.path.dirname(name):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "wb") as file:
        file.write(blob)


def run(order, stdin, channel):
    """One program, from its start to the death of the last process it left behind."""
    limits = order["limits"]
    source, out, err = os.pipe(), os.pipe(), os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        become(order, (source[0], out[1], err[1]), channel if order["channel"] else None)
    for descriptor in (source[0], out[1], err[1]):
        os.close(descriptor)
    why, kept = attend(child, out[0], err[0], Feed(source[1], stdin), limits, started)
    status, usage = finish(child)
    seconds = time.monotonic() - started
    if not why:  # what was written just before the end
        why = drain(out[0], err[0], kept, limits["output"])
    os.close(out[0])
    os.close(err[0])
    report = {
        "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "why": why,
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
    }
    return report, bytes(kept[0]), bytes(kept[1])


def become(order, standard, channel):
    """In the child: take up the limits and the program; never returns."""
    limits = order["limits"]
    try:
        os.setsid()
        for target, descriptor in enumerate(standard):
            os.dup2(descriptor, target)
        if channel is not None:
            os.dup2(channel, CHANNEL)
            os.set_inheritable(CHANNEL, True)
        os.closerange(3 if channel is None else CHANNEL + 1, 4096)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        cpu = int(limits["seconds"] * os.cpu_count()) + 1  # the wall clock bounds first; this outlives us
        bounds = {
            resource.RLIMIT_CPU: cpu,
            resource.RLIMIT_DATA: limits["memory"],
            resource.RLIMIT_FSIZE: limits["disk"],
            resource.RLIMIT_NOFILE: limits["files"],
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_STACK: min(64 << 20, limits["memory"]),
        }
        if ALONE:  # elsewhere it would count every process of the user
            bounds[resource.RLIMIT_NPROC] = limits["processes"] + 2
        for name, value in bounds.items():
            most = resource.getrlimit(name)[1]
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(name, (value, value))
        os.execve(order["argv"][0], order["argv"], order["env"])
    except BaseException as error:
        os.write(2, f"cannot start {order['argv'][0]}: {error}\n".encode())
    os._exit(127)


class Feed:
    """What is left to write to a program's standard input."""

    def __init__(self, descriptor, data):
        self.descriptor, self.left = descriptor, memoryview(data)
        os.set_blocking(descriptor, False)

    def write(self):
        """As much as fits; True when nothing is left or nobody reads."""
        try:
            self.left = self.left[os.write(self.descriptor, self.left[:BLOCK]) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            return True
        return not self.left


def attend(child, out, err, feed, limits, started):
    """Feed it and read its output until it ends or exceeds a limit; why it was stopped, and what it wrote."""
    process = os.pidfd_open(child)
    poll = select.poll()
    for descriptor in (process, out, err):
        poll.register(descriptor, select.POLLIN)
    poll.register(feed.descriptor, select.POLLOUT)
    kept, total, look, why = [bytearray(), bytearray()], 0, started + WATCH, ""
    deadline, ended = started + limits["seconds"], False
    while not ended and not why:
        now = time.monotonic()
        if now >= look and not why:
            why, look = watch(limits), time.monotonic() + WATCH
        if now >= deadline:
            why = why or "timeout"
        wait = max(0.0, min(deadline, look) - now)
        for descriptor, _ in [] if why else poll.poll(int(wait * 1000) + 1):
            if descriptor == process:
                ended = True
                continue
            if descriptor == feed.descriptor:
                if feed.write():
                    poll.unregister(descriptor)
                    os.close(descriptor)
                    feed.descriptor = None
                continue
            data = os.read(descriptor, BLOCK)
            if not data:
                poll.unregister(descriptor)
            total += len(data)
            keep(kept, descriptor == err, data)
            if total > limits["output"]:
                why = "output"
    os.close(process)
    if feed.descriptor is not None:
        os.close(feed.descriptor)
    return why, kept


def keep(kept, is_error, data):
    kept[is_error] += data
    if is_error and len(kept[1]) > 2 * STDERR_KEPT:
        del kept[1][:-STDERR_KEPT]  # the end of a traceback says most


def drain(out, err, kept, limit):
    for descriptor in (out, err):
        os.set_blocking(descriptor, False)
        while True:
            try:
                data = os.read(descriptor, BLOCK)
            except BlockingIOError:
                break
            if not data:
                break
            keep(kept, descriptor == err, data)
            if len(kept[0]) + len(kept[1]) > limit:
                return "output"
    return ""


def watch(limits):
    """Memory and threads of everything that runs here, by its own account in /proc."""
    memory, threads = 0, 0
    for pid in everyone():
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        except OSError:  # it has just ended
            continue
        anonymous = fields.get(b"RssAnon", b"0 kB"), fields.get(b"RssShmem", b"0 kB")
        memory += sum(int(size.split()[0]) * 1024 for size in anonymous)
        threads += int(fields.get(b"Threads", b"1"))
    if memory > limits["memory"]:
        return "memory"
    return "processes" if threads > limits["processes"] else ""


def everyone():
    if ALONE:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    found, queue = [], [os.getpid()]
    while queue:
        try:
            with open(f"/proc/{(pid := queue.pop())}/task/{pid}/children") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        found += children
        queue += children
    return found


def finish(child):
    """Kill everything and bury it; the status and use of the program itself."""
    # Do not look at the child before the others are dead: what it left behind must not outlive it.
    result = None
    while True:
        kill(child)
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return result
        if pid == child:
            result = status, usage


def kill(child):
    try:
        if ALONE:
            os.kill(-1, signal.SIGKILL)  # all of the namespace but its first process, at once
        else:
            for pid in everyone():
                os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
