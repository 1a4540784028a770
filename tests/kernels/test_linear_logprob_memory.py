"""Peak memory of 4,096 tokens times 49,152 words, against the plain path, by the bytes of live tensors."""

import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rung.kernels.linear_logprob import linear_logprob

TOKENS, VOCABULARY, WIDTH = 4096, 49152, 64


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make and that are still alive; `peak` is the most there were.

    Temporaries inside one operation do not show; neither path is helped by that more than the other.
    """

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.watched = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.watch(leaf.untyped_storage())
        return result

    def watch(self, storage):
        if storage._cdata in self.watched:
            return
        self.watched.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, key, size):
        self.watched.discard(key)
        self.live -= size


def leaves(device):
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16, device=device, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.bfloat16, device=device, requires_grad=True)
    return hidden, weight, torch.zeros(TOKENS, dtype=torch.int64, device=device)


def plain_peak():
    """On the meta device: the same tensors, no numbers."""
    hidden, weight, targets = leaves("meta")
    with LiveBytes() as memory:
        F.cross_entropy((hidden @ weight.t()).float(), targets).backward()
    return memory.peak


def our_peak(guess_N):
    hidden, weight, targets = leaves("cpu")
    with LiveBytes() as memory:
        linear_logprob(hidden, weight, targets, guess_N=guess_N).logprob_N.mean().backward()
    assert weight.grad is not None
    return memory.peak


def test_the_measure_counts_what_lives():
    with LiveBytes() as memory:
        kept = torch.empty(1000, dtype=torch.uint8)
        for _ in range(3):
            torch.empty(500, dtype=torch.uint8)
        kept[10:].add_(1)
    assert memory.peak == 1500
    assert memory.live == 1000


def test_peak_is_under_a_quarter_of_the_plain_path():
    plain, logits = plain_peak(), TOKENS * VOCABULARY * 2
    assert plain >= 5 * logits  # bf16 and float32 logits, float32 log-probs: the oracle is the known culprit
    for guess_N in (None, torch.ones(TOKENS)):
        assert our_peak(guess_N) < plain / 4
        assert our_peak(guess_N) < logits  # not even half-precision logits are there at once


def test_scoring_without_a_graph_holds_one_chunk():
    hidden, weight, targets = leaves("cpu")
    with LiveBytes() as memory, torch.no_grad():
        linear_logprob(hidden, weight, targets, chunk_tokens=512)
    chunk = 512 * VOCABULARY * 2
    assert chunk < memory.peak < 2 * chunk
