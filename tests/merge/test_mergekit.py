"""rung's merge methods against mergekit's, tensor by tensor, on what tests/golden/make_mergekit.py wrote."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rung.merge import dare
from rung.merge.blocks import blocks_of
from rung.merge.dare import dare_ties
from rung.merge.linear import linear
from rung.merge.slerp import slerp
from rung.merge.task_arithmetic import task_arithmetic
from rung.merge.ties import ties

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "mergekit.safetensors")
NAMES = [name.removeprefix("base/") for name in GOLDEN if name.startswith("base/")]
CASES = {
    "linear": ("abc", linear, dict(weights=[0.2, 0.3, 0.5])),
    "slerp": ("ab", slerp, dict(alpha=0.3)),
    "task_arithmetic": (".abc", task_arithmetic, dict(weights=[0.7, -0.4, 0.2])),
    "task_arithmetic_scaled": (".ab", task_arithmetic, dict(weights=[1.0, 1.0], scale=0.4)),
    "ties": (".abc", ties, dict(weights=[1.0, 1.0, 1.0], density=0.3)),
    "ties_weighted": (".abc", ties, dict(weights=[0.5, 1.5, 1.0], density=0.6, scale=0.8)),
    "dare": (".ab", dare.dare, dict(weights=[0.6, 0.9], density=0.3, seed=0)),
    "dare_ties": (".ab", dare_ties, dict(weights=[0.6, 0.9], density=0.3, seed=0)),
}


class Pattern:
    """The masks that the golden file was made with: a place for each model, moved on from block to block."""

    def __init__(self):
        self.at = {}

    def __call__(self, tau, density, die):
        model, start = die.bit_generator.seed_seq.entropy, self.at.get(id(die), 0)
        self.at[id(die)] = start + len(tau)
        return (torch.arange(start, start + len(tau)) * 7 + 3 * model) % 10 < 10 * density


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1000, 5])  # whole tensors, and blocks that cut them anywhere
def test_every_tensor_is_mergekits(case, size, monkeypatch):
    letters, method, options = CASES[case]
    assert len(NAMES) == 12
    for name in NAMES:
        monkeypatch.setattr(dare, "kept", Pattern())
        models = [GOLDEN[f"{'base' if letter == '.' else letter}/{name}"] for letter in letters]
        merged = torch.cat(list(method(blocks_of(*models, size=size), **options)))
        expected = GOLDEN[f"{case}/{name}"]
        torch.testing.assert_close(merged.float().reshape(expected.shape), expected, atol=2e-6, rtol=1e-5)
