"""Log-probs of a head against float64 autograd, by hand, at the limits, with wrong arguments."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_head import REQUESTS, SCORINGS, Products, close, gradients, plain, problem, shrink_blocks

from rung.kernels import linear_logprob_torch as chunks
from rung.kernels.linear_logprob import linear_logprob


def test_by_hand_two_words():
    """hidden 1, weights (ln 3, 0): p = (3/4, 1/4). For target 0: d logprob / d logit = (1/4, -1/4).

    So d/d hidden = ln 3 / 4, d/d weight = (1/4, -1/4), entropy = ln 4 - 3/4 ln 3.
    """
    hidden = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[math.log(3)], [0.0]], dtype=torch.float64, requires_grad=True)
    out = linear_logprob(hidden, weight, torch.tensor([0]), entropy=True, top_k=2)
    close(out.logprob_N, torch.tensor([math.log(3 / 4)]), 1e-6)
    close(out.entropy_N, torch.tensor([math.log(4) - 3 / 4 * math.log(3)]), 1e-6)
    close(out.top_logprobs_Nk, torch.tensor([[math.log(3 / 4), math.log(1 / 4)]]), 1e-6)
    assert out.top_ids_Nk.tolist() == [[0, 1]]
    hidden_gradient, weight_gradient = torch.autograd.grad(out.logprob_N.sum(), [hidden, weight])
    close(hidden_gradient, torch.tensor([[math.log(3) / 4]]), 1e-6)
    close(weight_gradient, torch.tensor([[1 / 4], [-1 / 4]]), 1e-6)


@pytest.mark.parametrize("chunk_tokens", [None, 1, 3, 7])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_option_grid_against_float64_autograd(request_name, chunk_tokens, monkeypatch):
    shrink_blocks(monkeypatch)
    for scoring in SCORINGS:
        for masked in (False, True):
            hidden, weight, bias_V, targets, mask_N = problem(10, 5, 11, bias=scoring["bias"])
            asked = dict(REQUESTS[request_name])
            options = {k: v for k, v in scoring.items() if k != "bias"} | {"bias_V": bias_V}
            options["mask_N"] = mask_N if masked else None
            options["ids_Nj"] = torch.randint(11, (10, 2)) if asked.pop("ids", False) else None
            out = linear_logprob(hidden, weight, targets, chunk_tokens=chunk_tokens, **options, **asked)
            entropy = asked.pop("entropy", False)
            expected = plain(hidden, weight, targets, **options, **asked)
            parts = [out.logprob_N, out.entropy_N, out.top_logprobs_Nk, out.id_logprobs_Nj]
            asked_for = [True, entropy, "top_k" in asked, options["ids_Nj"] is not None]
            assert [p is not None for p in parts] == asked_for
            ours, theirs = 0.0, 0.0
            for part, oracle in zip(parts, expected, strict=True):
                if part is not None:
                    close(part, oracle)
                    slopes = torch.randn(oracle.shape, dtype=torch.float64)
                    ours, theirs = ours + (part * slopes).sum(), theirs + (oracle * slopes).sum()
            leaves = [hidden, weight, bias_V]
            for found, oracle in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
                close(found, oracle)


def test_gradcheck_of_everything_at_once(monkeypatch):
    shrink_blocks(monkeypatch)
    hidden, weight, bias_V, targets, mask_N = problem(5, 3, 7)

    def outputs(hidden, weight, bias_V):
        out = linear_logprob(
            hidden, weight, targets, bias_V=bias_V, mask_N=mask_N, temperature=0.8, softcap=2.0,
            entropy=True, top_k=2, ids_Nj=targets[:, None], chunk_tokens=2,
        )  # fmt: skip
        return out.logprob_N, out.entropy_N, out.top_logprobs_Nk, out.id_logprobs_Nj

    assert torch.autograd.gradcheck(outputs, (hidden, weight, bias_V))


@pytest.mark.parametrize("guess", [False, True])
@pytest.mark.parametrize("trained", [0, 3])
def test_masked_tokens_cost_nothing_and_may_hold_anything(monkeypatch, trained, guess):
    """Errata 15: an ignore mask. NaN states and a target of -100 in masked rows must not show."""
    products = Products(monkeypatch)
    hidden, weight, bias_V, targets, _ = problem(8, 4, 13)
    mask_N = torch.arange(8) < trained
    targets[~mask_N] = -100
    with torch.no_grad():
        hidden[~mask_N] = math.nan
    request = {"guess_N": torch.ones(8)} if guess else {"entropy": True, "top_k": 2}
    out = linear_logprob(hidden, weight, targets, bias_V=bias_V, mask_N=mask_N, **request)
    for part in (out.logprob_N, out.entropy_N, out.top_logprobs_Nk, out.top_ids_Nk):
        assert part is None or not part[~mask_N].any()
    found = gradients(out.logprob_N.sum(), [hidden, weight, bias_V])
    kept = hidden[mask_N].detach().requires_grad_()
    expected = gradients(plain(kept, weight, targets[mask_N], bias_V)[0].sum(), [kept, weight, bias_V])
    close(found[0][mask_N], expected[0])
    assert not found[0][~mask_N].any()
    close(found[1], expected[1])
    close(found[2], expected[2])
    assert set(products.tokens) == {trained}


@pytest.mark.parametrize("guess_N", [None, torch.ones(6)])
def test_a_frozen_weight_gets_no_gradient_and_no_product(monkeypatch, guess_N):
    monkeypatch.setattr(chunks, "_add_product", lambda *_: pytest.fail("a product for a frozen weight"))
    hidden, weight, _, targets, _ = problem(6, 4, 13, bias=False)
    expected = torch.autograd.grad(plain(hidden, weight, targets)[0].sum(), hidden)[0]
    linear_logprob(hidden, weight.detach(), targets, guess_N=guess_N).logprob_N.sum().backward()
    close(hidden.grad, expected)


def test_a_frozen_hidden_state_still_trains_the_weight():
    hidden, weight, _, targets, _ = problem(6, 4, 13, bias=False)
    expected = torch.autograd.grad(plain(hidden, weight, targets)[0].sum(), weight)[0]
    linear_logprob(hidden.detach(), weight, targets).logprob_N.sum().backward()
    close(weight.grad, expected)


def test_weights_changed_before_backward_are_noticed():
    hidden, weight, _, targets, _ = problem(6, 4, 13, bias=False)
    loss = linear_logprob(hidden, weight, targets).logprob_N.sum()
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9), st.integers(2, 12), st.integers(0, 10**6), st.sampled_from([0.1, 3.0, 40.0]),
    st.integers(1, 10),
)  # fmt: skip
def test_properties(tokens, vocabulary, seed, spread, chunk_tokens):
    """Probabilities sum to 1, entropy is between 0 and ln V, a common shift of the logits changes nothing."""
    hidden, weight, bias_V, targets, _ = problem(tokens, 3, vocabulary, spread=spread, seed=seed)
    options = {"entropy": True, "top_k": vocabulary, "chunk_tokens": chunk_tokens}
    out = linear_logprob(hidden, weight, targets, bias_V=bias_V, **options)
    close(out.top_logprobs_Nk.exp().sum(1), torch.ones(tokens))
    assert (out.entropy_N >= -1e-12).all() and (out.entropy_N <= math.log(vocabulary) + 1e-12).all()
    place_N = (out.top_ids_Nk == targets[:, None]).double()
    close((out.top_logprobs_Nk * place_N).sum(1), out.logprob_N)
    shifted = linear_logprob(hidden, weight, targets, bias_V=bias_V + 5.0, **options)
    close(shifted.logprob_N, out.logprob_N, 1e-9)
    close(shifted.entropy_N, out.entropy_N, 1e-9)


def test_limits():
    hidden, weight, _, targets, _ = problem(6, 4, 13, torch.float32, bias=False)
    hot = linear_logprob(hidden, weight, targets, temperature=1e6, entropy=True)
    close(hot.logprob_N, torch.full((6,), -math.log(13)), 1e-5)
    close(hot.entropy_N, torch.full((6,), math.log(13)), 1e-5)
    cold = linear_logprob(hidden, weight, targets, temperature=1e-4, entropy=True, top_k=1)
    close(cold.entropy_N, torch.zeros(6), 1e-5)
    close(cold.top_logprobs_Nk, torch.zeros(6, 1), 1e-5)
    uncapped = linear_logprob(hidden, weight, targets, softcap=1e4)
    close(uncapped.logprob_N, linear_logprob(hidden, weight, targets).logprob_N, 1e-3)


@pytest.mark.parametrize("request_name", ["entropy", "guess"])
def test_impossible_and_forbidden_words_give_no_nan(request_name):
    """Logits 300 apart underflow every exponential; a bias of -inf forbids a word."""
    hidden = torch.ones(2, 1, requires_grad=True)
    weight = torch.tensor([[300.0], [0.0], [-300.0]], requires_grad=True)
    bias_V = torch.tensor([0.0, 0.0, -math.inf])
    options = {"entropy": True} if request_name == "entropy" else {"guess_N": torch.ones(2)}
    out = linear_logprob(hidden, weight, torch.tensor([0, 1]), bias_V=bias_V, **options)
    close(out.logprob_N, torch.tensor([0.0, -300.0]))
    loss = out.logprob_N.sum() + (0.0 if out.entropy_N is None else out.entropy_N.sum())
    hidden_gradient, weight_gradient = torch.autograd.grad(loss, [hidden, weight])
    close(hidden_gradient, torch.tensor([[0.0], [-300.0]]))
    close(weight_gradient, torch.tensor([[-1.0], [1.0], [0.0]]))
    forbidden = linear_logprob(hidden, weight, torch.tensor([2, 2]), bias_V=bias_V, entropy=True)
    assert (forbidden.logprob_N == -math.inf).all() and (forbidden.entropy_N == 0).all()


def test_chunks_are_even_and_bounded():
    head = chunks.Head(torch.empty(49152, 1, device="meta"))
    sizes = [s.stop - s.start for s in chunks.chunk_slices(torch.empty(4096, 1, device="meta"), head)]
    assert sizes == [1024] * 4
    ragged = chunks.Head(torch.empty(5, 1), chunk_tokens=4)
    assert [s.stop - s.start for s in chunks.chunk_slices(torch.empty(10, 1), ragged)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_ND": torch.ones(2, 3, 4)}, "flatten"),
        ({"weight_VD": torch.ones(5, 3)}, "share their last axis"),
        ({"weight_VD": torch.ones(5, 4, dtype=torch.bfloat16)}, "cast one of them"),
        ({"targets_N": torch.zeros(7, dtype=torch.int64)}, r"targets_N has shape \(7,\), expected \(6,\)"),
        ({"targets_N": torch.full((6,), 5)}, "the head has 5 rows"),
        ({"targets_N": torch.full((6,), -100)}, "mask_N"),
        ({"ids_Nj": torch.full((6, 2), 9)}, "token ids from 0 to 9"),
        ({"ids_Nj": torch.zeros(6, dtype=torch.int64)}, "ids_Nj has shape"),
        ({"mask_N": torch.ones(6)}, "boolean"),
        ({"mask_N": torch.ones(5, dtype=torch.bool)}, "mask_N has shape"),
        ({"bias_V": torch.ones(4)}, "bias_V has shape"),
        ({"guess_N": torch.ones(5)}, "guess_N has shape"),
        ({"temperature": 0.0}, "above 0"),
        ({"softcap": -1.0}, "above 0"),
        ({"top_k": 6}, "top_k 6 must be 0 to 5"),
        ({"chunk_tokens": 0}, "at least 1"),
        ({"backend": "triton", "top_k": 1}, "no top_k"),
    ],
)
def test_wrong_arguments_say_so(change, message):
    given = {"hidden_ND": torch.ones(6, 4), "weight_VD": torch.ones(5, 4), "targets_N": torch.zeros(6).long()}
    with pytest.raises(ValueError, match=message):
        linear_logprob(**(given | change))
