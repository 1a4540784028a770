"""A system-call filter, assembled by hand: what no honest program needs and the kernel is attacked through.

Namespaces decide what a program can reach; this decides how much of the kernel it can talk to. Calls are
refused with an error rather than killed, because runtimes probe for some of them (io_uring, clone3) and carry
on without. Everything else is allowed: an allow-list would break a runtime with every release of it.
"""

from __future__ import annotations

import errno
import platform
import struct

# name -> number on (x86-64, arm64); the same from 424 on, as Linux has unified them
REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "open_tree_attr": (467, 467),
    "unshare": (272, 97), "setns": (308, 268),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "syslog": (103, 116), "vhangup": (153, 58),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "move_pages": (279, 239),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "lookup_dcookie": (212, 18), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "uselib": (134, None),
    # memory that belongs to no process, which only a cgroup could count
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
}  # fmt: skip
ABSENT = {"clone3": 435, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
CLONE, SOCKET, PRLIMIT = (56, 220), (41, 198), (302, 261)
NEW_NAMESPACES = (
    0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}; a time namespace only by clone3 or unshare
)
FAMILIES = (1, 2, 10)  # unix and internet sockets, both cut off by the network namespace; vsock would not be
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def program(machine: str | None = None) -> bytes | None:
    """The filter as the kernel reads it; None on an architecture we have no numbers for."""
    if (machine or platform.machine()) not in ARCHITECTURES:
        return None
    column, audit = ARCHITECTURES[machine or platform.machine()]
    code = [
        op(LOAD, ARCHITECTURE), op(EQUAL, audit, 1, 0), op(RETURN, KILL),
        op(LOAD, NUMBER),
    ]  # fmt: skip
    if column == 0:  # the x32 interface numbers the same calls differently
        code += [op(AT_LEAST, 0x40000000, 0, 1), op(RETURN, KILL)]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            code += [op(EQUAL, number, 0, 1), op(RETURN, ERROR | errno.EPERM)]
    for number in ABSENT.values():
        code += [op(EQUAL, number, 0, 1), op(RETURN, ERROR | errno.ENOSYS)]
    code += guarded(CLONE[column], [op(ANY_BIT, NEW_NAMESPACES, 0, 1), op(RETURN, ERROR | errno.EPERM)])
    allowed = [op(EQUAL, family, len(FAMILIES) - index, 0) for index, family in enumerate(FAMILIES)]
    code += guarded(SOCKET[column], [*allowed, op(RETURN, ERROR | errno.EAFNOSUPPORT)])
    # only one's own limits: those of the sandbox's first process belong to us
    code += guarded(PRLIMIT[column], [op(EQUAL, 0, 1, 0), op(RETURN, ERROR | errno.EPERM)])
    return b"".join([*code, op(RETURN, ALLOW)])


def guarded(number: int, check: list[bytes]) -> list[bytes]:
    """`check` of the first argument for one call; falls through with the call's number loaded again."""
    body = [op(LOAD, FIRST_ARGUMENT), *check, op(LOAD, NUMBER)]
    return [op(EQUAL, number, 0, len(body)), *body]


def op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
