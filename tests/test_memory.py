"""What is freed goes back to the system."""

import subprocess
import sys

import pytest

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
