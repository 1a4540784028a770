"""Divergences against sums over all tokens in float64, gradients against finite differences and autograd."""

import math

import pytest
import torch
from test_linear_logprob_memory import LiveBytes

from rung.kernels.linear_divergence import Live, Measure, TopK, linear_divergence, top_k_and_tail
from rung.kernels.linear_logprob_torch import Head

MEASURES = [
    Measure("forward_kl"),
    Measure("reverse_kl"),
    *(Measure("jensen_shannon", beta) for beta in (0.1, 0.5, 0.9)),
]
TOKENS, VOCABULARY = 7, 11


def problem(dtype=torch.float64, bias=True, softcap=None, temperature=1.0, chunk=3, seed=0):
    """A student of width 4 and a teacher of width 5, over the same tokens."""
    torch.manual_seed(seed)
    hidden = torch.randn(TOKENS, 4, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, 4, dtype=dtype, requires_grad=True)
    bias_V = torch.randn(VOCABULARY, dtype=dtype, requires_grad=True) if bias else None
    their_head = Head(
        torch.randn(VOCABULARY, 5, dtype=dtype), torch.randn(VOCABULARY, dtype=dtype), temperature
    )
    teacher = Live(torch.randn(TOKENS, 5, dtype=dtype), their_head)
    head = Head(weight, bias_V, temperature, softcap, chunk_tokens=chunk)
    return hidden, head, torch.randint(VOCABULARY, (TOKENS,)), teacher


def logits_of(hidden, head):
    logits = hidden @ head.weight_VD.t() + (0 if head.bias_V is None else head.bias_V)
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def enumerated(logits, their_logits, measure, temperature):
    """The definition, token by token of the vocabulary, in ordinary arithmetic."""
    q, p = (torch.softmax(x / temperature, -1) for x in (logits, their_logits))
    m = measure.beta * p + (1 - measure.beta) * q
    total = []
    for row in range(len(q)):
        terms = {"forward_kl": 0.0, "reverse_kl": 0.0, "jensen_shannon": 0.0}
        for v in range(q.shape[1]):
            pv, qv, mv = p[row, v], q[row, v], m[row, v]
            terms["forward_kl"] = terms["forward_kl"] + pv * (pv / qv).log()
            terms["reverse_kl"] = terms["reverse_kl"] + qv * (qv / pv).log()
            terms["jensen_shannon"] = (
                terms["jensen_shannon"]
                + measure.beta * pv * (pv / mv).log()
                + (1 - measure.beta) * qv * (qv / mv).log()
            )
        total.append(terms[measure.kind])
    return torch.stack(total)


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 2.5}, {"softcap": 1.3}, {"bias": False}, {"softcap": 2.0, "temperature": 0.5}],
)
def test_values_and_gradients_are_those_of_the_enumeration(measure, options):
    hidden, head, targets, teacher = problem(**options)
    found = linear_divergence(hidden, head, targets, teacher, measure)
    logits = logits_of(hidden, head)
    expected = enumerated(logits, logits_of(teacher.hidden_ND, teacher.head), measure, head.temperature)
    logprob = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]  # at temperature 1, always
    torch.testing.assert_close(found.divergence_N, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.logprob_N, logprob, rtol=1e-10, atol=1e-12)
    leaves = [leaf for leaf in (hidden, head.weight_VD, head.bias_V) if leaf is not None]
    factors = torch.linspace(-1, 2, TOKENS, dtype=torch.float64)  # every token with a slope of its own
    for one, other in ((found.divergence_N, expected), (found.logprob_N, logprob)):
        gradients = torch.autograd.grad((one * factors).sum(), leaves, retain_graph=True)
        wanted = torch.autograd.grad((other * factors).sum(), leaves, retain_graph=True)
        torch.testing.assert_close(gradients, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("k", [0, 3])
def test_gradients_are_finite_differences(measure, k):
    hidden, head, targets, teacher = problem(temperature=1.7, softcap=1.5)
    kept = top_k_and_tail(teacher.hidden_ND, teacher.head, k) if k else teacher

    def both(hidden, weight, bias):
        one = Head(weight, bias, 1.7, 1.5, chunk_tokens=3)
        found = linear_divergence(hidden, one, targets, kept, measure)
        return found.divergence_N, found.logprob_N

    assert torch.autograd.gradcheck(both, (hidden, head.weight_VD, head.bias_V), atol=1e-7)


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_the_teachers_whole_vocabulary_from_the_cache_is_the_live_teacher(measure):
    hidden, head, targets, teacher = problem(temperature=1.4)
    cached = top_k_and_tail(teacher.hidden_ND, teacher.head, VOCABULARY)
    assert torch.isneginf(cached.tail_N).all()
    leaves = (hidden, head.weight_VD, head.bias_V)
    one, other = (
        linear_divergence(hidden, head, targets, t, measure).divergence_N for t in (teacher, cached)
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        torch.autograd.grad(one.sum(), leaves),
        torch.autograd.grad(other.sum(), leaves),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_top_k_and_tail_are_the_divergence_of_the_coarser_events(measure):
    hidden, head, targets, teacher = problem()
    kept = top_k_and_tail(teacher.hidden_ND, teacher.head, 3)
    p = torch.softmax(logits_of(teacher.hidden_ND, teacher.head), -1)
    q = torch.softmax(logits_of(hidden, head), -1)
    order = p.argsort(1, descending=True)
    merged = [x.gather(1, order) for x in (p, q)]
    merged = [torch.cat([x[:, :3], x[:, 3:].sum(1, keepdim=True)], 1) for x in merged]
    expected = enumerated(merged[1].log(), merged[0].log(), measure, 1.0)
    found = linear_divergence(hidden, head, targets, kept, measure).divergence_N
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kept.tail_N.exp(), 1 - kept.logprobs_Nk.exp().sum(1))
    leaves = (hidden, head.weight_VD, head.bias_V)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), leaves),
        torch.autograd.grad(expected.sum(), leaves),
        rtol=1e-9,
        atol=1e-11,
    )


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_more_of_the_teacher_says_no_less(measure):
    """Merging events cannot raise a divergence, so k of 1, 2, ... climbs to the live one."""
    hidden, head, targets, teacher = problem()
    rows = [
        linear_divergence(hidden, head, targets, top_k_and_tail(teacher.hidden_ND, teacher.head, k), measure)
        for k in (1, 2, 4, 8, VOCABULARY)
    ]
    values = torch.stack([row.divergence_N.detach() for row in rows])
    assert (values.diff(dim=0) >= -1e-12).all() and (values[-1] > values[0] + 1e-3).all()


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_a_tail_too_small_for_one_minus_the_sum_is_still_right(measure):
    """In float32 1 - p rounds a mass of 1e-12 away; summed from its own tokens it is there."""
    scores = torch.tensor([[0.0, -28.0, -30.0, -29.0]])
    kept = top_k_and_tail(torch.ones(1, 1), Head(scores.t().contiguous()), 1)
    assert kept.tail_N.item() == pytest.approx(
        torch.tensor([-28.0, -30.0, -29.0]).logsumexp(0).item(), abs=1e-5
    )
    found = linear_divergence(
        torch.ones(1, 1), Head(scores.t().contiguous()), torch.zeros(1).long(), kept, measure
    )
    assert abs(found.divergence_N.item()) < 1e-7  # float32's rounding of the mixture


def test_a_short_row_is_the_row_without_its_gaps():
    hidden, head, targets, teacher = problem()
    two = top_k_and_tail(teacher.hidden_ND, teacher.head, 2)
    gap = torch.full((TOKENS, 1), -1)
    filled = TopK(torch.cat([two.ids_Nk, gap], 1), torch.cat([two.logprobs_Nk, gap * 1.0], 1), two.tail_N)
    for measure in MEASURES:
        one, other = (
            linear_divergence(hidden, head, targets, t, measure).divergence_N for t in (two, filled)
        )
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        leaves = (hidden, head.weight_VD)
        torch.testing.assert_close(
            torch.autograd.grad(one.sum(), leaves),
            torch.autograd.grad(other.sum(), leaves),
            rtol=0,
            atol=1e-15,
        )


def test_the_ends_of_jensen_shannon_are_the_two_kls():
    """D / beta -> KL(p || q) as beta -> 0 and D / (1 - beta) -> KL(q || p) as beta -> 1, with their gradients."""
    hidden, head, targets, teacher = problem()

    def at(measure):
        value = linear_divergence(hidden, head, targets, teacher, measure).divergence_N
        return value.detach(), *torch.autograd.grad(value.sum(), (hidden, head.weight_VD))

    forward, reverse = at(Measure("forward_kl")), at(Measure("reverse_kl"))
    for beta in (1e-8, 1 - 1e-8):
        near, factor = (forward, beta) if beta < 0.5 else (reverse, 1 - beta)
        for part, limit in zip(at(Measure("jensen_shannon", beta)), near, strict=True):
            torch.testing.assert_close(part / factor, limit, rtol=1e-3, atol=1e-4)
    half = at(Measure("jensen_shannon", 0.5))[0]
    assert (half >= 0).all() and (half <= math.log(2)).all()  # bounded, as neither KL is


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_a_jensen_shannon_that_is_always_zero_is_refused(beta):
    with pytest.raises(ValueError, match="forward_kl"):
        Measure("jensen_shannon", beta)


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("k", [0, 4])
def test_a_student_that_is_the_teacher_is_at_zero_with_no_gradient(measure, k):
    hidden, head, targets, _ = problem(temperature=2.0)
    theirs = Head(head.weight_VD.detach().clone(), head.bias_V.detach().clone(), 2.0)
    same = Live(hidden.detach().clone(), theirs)
    teacher = top_k_and_tail(same.hidden_ND, same.head, k) if k else same
    found = linear_divergence(hidden, head, targets, teacher, measure).divergence_N
    gradients = torch.autograd.grad(found.sum(), (hidden, head.weight_VD))
    assert found.abs().max() < 1e-14 and all(g.abs().max() < 1e-14 for g in gradients)


def test_the_teacher_gets_no_gradient():
    hidden, head, targets, teacher = problem()
    wanting = Live(teacher.hidden_ND.requires_grad_(), Head(teacher.head.weight_VD.requires_grad_()))
    linear_divergence(hidden, head, targets, wanting, Measure()).divergence_N.sum().backward()
    assert wanting.hidden_ND.grad is None and wanting.head.weight_VD.grad is None
    assert hidden.grad is not None and head.weight_VD.grad is not None


def test_chunks_do_not_change_it_and_no_token_is_no_trouble():
    for measure in MEASURES:
        found = []
        for chunk in (1, 2, 100):
            hidden, head, targets, teacher = problem(chunk=chunk)
            value = linear_divergence(hidden, head, targets, teacher, measure).divergence_N
            found.append((value.detach(), *torch.autograd.grad(value.sum(), (hidden, head.weight_VD))))
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-13)
    hidden, head, targets, teacher = problem()
    nothing = linear_divergence(
        hidden[:0], head, targets[:0], Live(teacher.hidden_ND[:0], teacher.head), Measure()
    )
    nothing.divergence_N.sum().backward()
    assert len(nothing.divergence_N) == 0 and head.weight_VD.grad.abs().max() == 0


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("k", [0, 5])
def test_half_precision_adds_up_in_float32(measure, k):
    """bf16 in: value and gradients are those of the same numbers in float64 but for the rounding of the logits."""
    hidden, head, targets, teacher = problem(torch.bfloat16, bias=False)
    head = Head(head.weight_VD, float32=True, chunk_tokens=2)
    theirs = Head(teacher.head.weight_VD, float32=True)
    said = Live(teacher.hidden_ND, theirs)
    kept = top_k_and_tail(said.hidden_ND, said.head, k) if k else said
    found = linear_divergence(hidden, head, targets, kept, measure)
    assert found.divergence_N.dtype == found.logprob_N.dtype == torch.float32
    wide = [t.detach().double().requires_grad_() for t in (hidden, head.weight_VD)]
    live = Live(teacher.hidden_ND.double(), Head(theirs.weight_VD.double()))
    exact_teacher = top_k_and_tail(live.hidden_ND, live.head, k) if k else live
    exact = linear_divergence(wide[0], Head(wide[1]), targets, exact_teacher, measure).divergence_N
    torch.testing.assert_close(found.divergence_N.double(), exact, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(found.divergence_N.sum(), (hidden, head.weight_VD))
    wanted = torch.autograd.grad(exact.sum(), wide)
    for one, other in zip(gradients, wanted, strict=True):
        assert (one.double() - other).abs().max() < 0.02 * other.abs().max()


def test_what_does_not_fit_is_refused():
    hidden, head, targets, teacher = problem()
    cut = Live(teacher.hidden_ND, Head(teacher.head.weight_VD[:-1], temperature=1.0))
    with pytest.raises(ValueError, match="11 rows and the teacher's 10"):
        linear_divergence(hidden, head, targets, cut, Measure())
    warm = Live(teacher.hidden_ND, Head(teacher.head.weight_VD, temperature=2.0))
    with pytest.raises(ValueError, match=r"temperatures 1\.0 and 2\.0"):
        linear_divergence(hidden, head, targets, warm, Measure())
    kept = top_k_and_tail(teacher.hidden_ND, teacher.head, 2)
    outside = TopK(kept.ids_Nk * 0 + 11, kept.logprobs_Nk, kept.tail_N)
    with pytest.raises(ValueError, match="names token 11"):
        linear_divergence(hidden, head, targets, outside, Measure())
    with pytest.raises(ValueError, match="names no token at all"):
        linear_divergence(
            hidden, head, targets, TopK(kept.ids_Nk * 0 - 1, kept.logprobs_Nk, kept.tail_N), Measure()
        )
    with pytest.raises(ValueError, match="7 hidden states, 6 targets"):
        linear_divergence(hidden, head, targets[:-1], teacher, Measure())
    with pytest.raises(ValueError, match="k is 12"):
        top_k_and_tail(teacher.hidden_ND, teacher.head, 12)


def test_neither_models_logits_are_materialised():
    """4,096 tokens of 49,152 words: two sets of float32 logits would be 1.6 GB, with gradients 2.4."""
    tokens, vocabulary = 4096, 49152
    on = {"device": "meta", "dtype": torch.bfloat16}
    weight, theirs = (torch.randn(vocabulary, width, **on, requires_grad=width == 64) for width in (64, 96))
    hidden, said = torch.randn(tokens, 64, **on, requires_grad=True), torch.randn(tokens, 96, **on)
    targets = torch.zeros(tokens, dtype=torch.int64, device="meta")
    with LiveBytes() as memory:
        found = linear_divergence(
            hidden, Head(weight), targets, Live(said, Head(theirs)), Measure("jensen_shannon")
        )
        found.divergence_N.sum().backward()
    whole = tokens * vocabulary * 4
    assert memory.peak < 0.75 * whole
