"""The oracle of the linear_logprob tests: float64 logits, all of them at once, and autograd."""

import itertools

import torch

from rung.kernels import linear_logprob_torch as chunks

REQUESTS = {
    "logprob": {},
    "entropy": {"entropy": True},
    "top_k": {"top_k": 3},
    "ids": {"ids": True},
    "all": {"entropy": True, "top_k": 2, "ids": True},
}
SCORINGS = [
    {"bias": bias, "softcap": softcap, "temperature": temperature}
    for bias, softcap, temperature in itertools.product((False, True), (None, 1.5), (1.0, 0.6))
]


def problem(tokens, width, vocabulary, dtype=torch.float64, bias=True, spread=0.5, seed=0):
    """Leaves that want gradients, targets and a mask of about two thirds."""
    torch.manual_seed(seed)
    hidden = torch.randn(tokens, width).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width) * spread).to(dtype).requires_grad_()
    bias_V = torch.randn(vocabulary).to(dtype).requires_grad_() if bias else None
    return hidden, weight, bias_V, torch.randint(vocabulary, (tokens,)), torch.rand(tokens) < 0.67


def plain(
    hidden, weight, targets, bias_V=None, mask_N=None, ids_Nj=None, temperature=1.0, softcap=None, top_k=0
):
    """(logprob, entropy, top log-probs, log-probs of ids), all differentiable, 0 where masked out."""
    logits = hidden.double() @ weight.double().t()
    if bias_V is not None:
        logits = logits + bias_V.double()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    parts = [
        logprobs.gather(1, targets[:, None])[:, 0],
        -(logprobs.exp() * logprobs).sum(-1),
        logprobs.topk(top_k, dim=-1).values,
        logprobs[:, :0] if ids_Nj is None else logprobs.gather(1, ids_Nj),
    ]
    if mask_N is None:
        return parts
    return [torch.where(mask_N if p.ndim == 1 else mask_N[:, None], p, 0.0) for p in parts]


def gradients(loss, leaves):
    """Gradients of the leaves that are there, None for the others; an unused leaf has zeros."""
    wanted = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
    return [None if leaf is None else next(found) for leaf in leaves]


def close(found, expected, tolerance=1e-11):
    assert (found is None) == (expected is None)
    if found is not None:
        torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


def shrink_blocks(monkeypatch):
    """Blocks of two rows and tiles of four ids, so that tiny problems have many, the last one ragged."""
    monkeypatch.setattr(chunks, "BLOCK_ELEMENTS", 23 // torch.get_num_threads() + 1)
    monkeypatch.setattr(chunks, "TILE_ROWS", 4)


class Products:
    """Counts matrix products that form logits."""

    def __init__(self, monkeypatch):
        self.tokens = []
        original = chunks.head_product

        def counted(hidden_CD, *rest):
            self.tokens.append(len(hidden_CD))
            return original(hidden_CD, *rest)

        monkeypatch.setattr(chunks, "head_product", counted)
