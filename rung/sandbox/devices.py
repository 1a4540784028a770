"""The four devices of a sandbox.

A program may write to /dev/null, and where root runs us it is, to the kernel, root: it could change the mode
of the machine's own /dev/null for everybody. So root's sandboxes get nodes of their own that belong to
nobody; other users do not own the machine's and can use them as they are.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from rung.errors import UserError

NOBODY = 65534
NAMES = ("null", "zero", "random", "urandom")


def devices() -> dict[str, str]:
    """Name in the sandbox's /dev -> node on the machine."""
    folder = "/dev" if os.geteuid() else private_folder()
    return {name: f"{folder}/{name}" for name in NAMES}


@functools.cache
def private_folder() -> str:
    """Nodes of our own, on the first filesystem that lets nodes work; gone when this process ends."""
    for place in (tempfile.gettempdir(), "/run", "/dev"):
        folder = tempfile.mkdtemp(prefix="rung-devices-", dir=place)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            for name in NAMES:
                node = Path(folder, name)
                os.mknod(node, 0o666 | stat.S_IFCHR, os.stat(f"/dev/{name}").st_rdev)
                os.chown(node, NOBODY, NOBODY)
                node.chmod(0o666)
            with open(f"{folder}/null", "wb"):
                return folder
        except OSError:  # mounted without devices, or no right to make them
            continue
    raise UserError(
        "as root, a sandbox needs device nodes of its own, and none can be made here (mknod is not permitted); "
        "run rung as an ordinary user"
    )
