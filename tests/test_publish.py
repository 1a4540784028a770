"""A folder appears whole or not at all, whatever kills the writer."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rung import publish as module
from rung.errors import UserError
from rung.publish import point, publish, require_space, sweep

DEAD = 2**22 + 1  # above the largest pid of Linux


def fill(folder: Path, text: str = "whole") -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)


def test_target_is_absent_until_the_end_and_whole_after(tmp_path):
    target = tmp_path / "deep" / "model"
    with publish(target) as folder:
        fill(folder)
        assert not target.exists()
    assert (target / "sub" / "a.txt").read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_any_exception_leaves_nothing(tmp_path, error):
    with pytest.raises(error), publish(tmp_path / "model") as folder:
        fill(folder)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_disk_full_becomes_one_message_that_names_the_path(tmp_path):
    with pytest.raises(UserError, match=r"disk is full.*model"), publish(tmp_path / "model") as folder:
        fill(folder)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), publish(tmp_path / "model"):
        raise PermissionError(errno.EACCES, "no")


def test_existing_folder_refused_kept_or_replaced(tmp_path):
    target = tmp_path / "model"
    with publish(target) as folder:
        fill(folder, "first")
    with pytest.raises(UserError, match="already exists"), publish(target):
        raise AssertionError("must refuse before any work is done")
    with publish(target, existing="keep") as folder:
        fill(folder, "second")
    assert (target / "sub" / "a.txt").read_text() == "first"
    with publish(target, existing="replace") as folder:
        fill(folder, "third")
    assert (target / "sub" / "a.txt").read_text() == "third"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_empty_existing_folder_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    with publish(tmp_path / "model") as folder:
        fill(folder)
    assert (tmp_path / "model" / "sub").is_dir()


def test_a_rival_that_finishes_first_wins(tmp_path):
    target = tmp_path / "model"
    with publish(target, existing="keep") as slow:
        fill(slow, "slow")
        with publish(target, existing="keep") as quick:
            fill(quick, "quick")
    assert (target / "sub" / "a.txt").read_text() == "quick"
    with pytest.raises(UserError, match="came into being"), publish(tmp_path / "other") as slow:
        fill(slow)
        shutil.copytree(target, tmp_path / "other")


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    events = []
    real_sync, real_rename = module._sync, Path.rename
    monkeypatch.setattr(module, "_sync", lambda p: (events.append(p.name.split(".tmp")[0]), real_sync(p)))
    monkeypatch.setattr(Path, "rename", lambda s, t: (events.append("RENAME"), real_rename(s, t)))
    with publish(tmp_path / "model") as folder:
        fill(folder)
    assert sorted(events[: events.index("RENAME")]) == ["a.txt", "model", "sub"]
    assert events[events.index("RENAME") :] == ["RENAME", tmp_path.name]


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path):
    code = (
        "import sys, os, pathlib; from rung.publish import publish\n"
        f"with publish(pathlib.Path({str(tmp_path)!r}) / 'model') as f:\n"
        "    (f / 'half').write_text('x'); print('ready', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writer.stdout.readline()
    (tmp_path / "notes.tmp-1").mkdir()  # not one of ours
    assert sweep(tmp_path) == []  # the writer is alive
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    left = sweep(tmp_path)
    assert len(left) == 1 and left[0].name.startswith("model.tmp-")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.tmp-1"]
    assert sweep(tmp_path / "absent") == []


def test_sweep_spares_own_work_and_clears_an_earlier_life_with_the_same_pid(tmp_path):
    old = tmp_path / f"model.tmp-{os.getpid()}-0123abcd"
    old.mkdir()
    with publish(tmp_path / "model") as folder:
        fill(folder)
        assert sweep(tmp_path) == [old]
        assert folder.is_dir()


def test_sweep_spares_what_is_young_enough_to_be_another_machines(tmp_path):
    left = tmp_path / f"model.tmp-{DEAD}-0123abcd"
    left.mkdir()
    assert sweep(tmp_path, older_than=3600) == []
    os.utime(left, (0, 0))
    assert sweep(tmp_path, older_than=3600) == [left]


def test_sweep_puts_back_a_folder_caught_between_the_two_renames(tmp_path):
    fill_me = tmp_path / f"step-10.old-{DEAD}-0123abcd"
    fill_me.mkdir()
    fill(fill_me, "only copy")
    sweep(tmp_path)
    assert (tmp_path / "step-10" / "sub" / "a.txt").read_text() == "only copy"
    again = tmp_path / f"step-10.old-{DEAD}-0123abcd"
    again.mkdir()
    sweep(tmp_path)
    assert not again.exists() and (tmp_path / "step-10" / "sub" / "a.txt").exists()


def test_pointer_moves_whole(tmp_path, monkeypatch):
    point(tmp_path / "LATEST", "step-10")
    assert (tmp_path / "LATEST").read_text() == "step-10\n"

    def broken(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(module.os, "fsync", broken)
    with pytest.raises(OSError):
        point(tmp_path / "LATEST", "step-20")
    assert (tmp_path / "LATEST").read_text() == "step-10\n"
    assert [p.name for p in tmp_path.iterdir()] == ["LATEST"]


def test_space_is_asked_for_beforehand(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(UserError, match=r"there needs .* GB"):
        require_space(tmp_path / "there", free * 2)
    with pytest.raises(UserError, match=r"there needs .* GB"), publish(tmp_path / "there", size=free * 2):
        raise AssertionError("must refuse before any work is done")
    assert list(tmp_path.iterdir()) == []


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        with publish(tmp_path / "model") as folder:
            fill(folder)
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755
