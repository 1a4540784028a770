"""What is freed goes back to the system, and what has ended is freed."""

import gc
import subprocess
import sys

import pytest

from rung.models.load import load_model
from rung.optimizer import Masters
from rung.pipelines.rl import rl
from rung.pipelines.sft import sft
from rung.settings import Sft
from rung.settings_rl import Rl

GAPS = """
import os
import psutil
from rung.memory import give_back

resident = lambda: psutil.Process().memory_info().rss / 1e6
before = resident()
blocks = [bytearray(100_000) for _ in range(4000)]  # too small to be mapped each by itself
kept = blocks[::100]
full = resident()
del blocks
gaps = resident()
give_back()
print(full - before, gaps - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be asked")
def test_gaps_between_live_blocks_are_given_back():
    done = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    full, gaps, after = map(float, done.stdout.split())
    assert full > 390 and gaps > 300, "the live blocks hold the pages between them"
    assert after < 40


def test_a_run_that_has_ended_is_freed_before_the_next_model_is_loaded(
    tiny_folder, rows_file, tmp_path, monkeypatch
):
    """Weights, masters and moments: a gigabyte and a half of the default model for each stage of one process."""
    monkeypatch.setattr("rung.models.load.TOY", 0)

    def alive():
        return sum(type(each) is Masters for each in gc.get_objects())

    gc.collect()
    before = alive()
    shared = {"model": str(tiny_folder), "precision": "bf16"}
    sft(Sft(data=(str(rows_file),), steps=1, max_length=200, out=str(tmp_path / "sft"), **shared))
    load_model(tiny_folder)
    assert alive() == before
    one = {"rounds": 1, "prompts": 1, "group": 2, "max_tokens": 4, "test_tasks": 0}
    rl(Rl(env="arithmetic", out=str(tmp_path / "rl"), **one, **shared), "grpo")
    load_model(tiny_folder)
    assert alive() == before
