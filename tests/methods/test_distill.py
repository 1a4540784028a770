"""The losses and credits of distillation by hand, and on distributions small enough to enumerate."""

import itertools
import math

import numpy as np
import pytest
import torch
from policy_case import batch_of, scores_of

from rung.advantages.teacher import reverse_kl, teacher_score
from rung.batch import TokenScores
from rung.errors import UserError
from rung.methods.distill import distill

NAN = float("nan")


def case(divergence, logprob):
    """Documents by their tokens' divergences and log-probs."""
    batch = batch_of([{"advantage": row} for row in divergence])
    flat = [
        torch.tensor([v for row in rows for v in row], dtype=torch.float64, requires_grad=True)
        for rows in (divergence, logprob)
    ]
    document_M = scores_of(batch, flat[1]).document_M
    return TokenScores(flat[1], document_M, divergence_M=flat[0]), batch


def test_the_loss_by_hand():
    scores, batch = case([[1.0, 3.0], [5.0]], [[-2.0, -4.0], [-6.0]])
    loss = distill(scores, batch)
    assert (loss.sum.item(), loss.count, loss.count_name) == (9.0, 3.0, "tokens")
    assert loss.metrics == {"teacher_divergence": (9.0, 3.0), "text_nll": (12.0, 3.0)}
    mixed = distill(scores, batch, data_weight=0.25)
    assert mixed.sum.item() == pytest.approx(0.75 * 9 + 0.25 * 12)
    slopes = torch.autograd.grad(mixed.sum, (scores.divergence_M, scores.logprob_M))
    assert [s.tolist() for s in slopes] == [[0.75] * 3, [-0.25] * 3]
    each = distill(scores, batch, normalize="sequence")
    assert (each.sum.item(), each.count, each.count_name) == (2.0 + 5.0, 2.0, "sequences")


@pytest.mark.parametrize("weight", [1.0, -0.1, NAN])
def test_a_weight_that_leaves_no_teacher_is_refused(weight):
    scores, batch = case([[1.0]], [[-1.0]])
    with pytest.raises(UserError, match="rung sft"):
        distill(scores, batch, data_weight=weight)


def test_scores_without_a_divergence_are_refused():
    scores, batch = case([[1.0]], [[-1.0]])
    with pytest.raises(ValueError, match="no divergence"):
        distill(TokenScores(scores.logprob_M, scores.document_M), batch)


def test_credit_by_hand():
    student, teacher = np.array([-1.0, -2.0, -3.0], np.float32), np.array([-1.5, -2.0, -0.5], np.float32)
    own = np.array([True, False, True])
    assert reverse_kl(student, teacher, own).tolist() == [-0.5, 0.0, 2.5]
    assert reverse_kl(student, student, own).tolist() == [0.0, 0.0, 0.0]
    said = [np.array(row, np.float32) for row in ([-1.0, -3.0], [-4.0], [-9.0, 5.0], [-2.0])]
    masks = [np.array(row) for row in ([True, True], [True], [True, False], [True])]
    credit = teacher_score(said, masks, np.array([0, 0, 0, 1]))
    # means per token -2, -4, -9 (the world's 5 does not count), mean -5; the last has nobody beside it
    assert [row.tolist() for row in credit] == [[3.0, 3.0], [1.0], [-4.0, 0.0], [0.0]]
    assert all(row.dtype == np.float32 for row in credit)


def tokens_of(logits):
    """Per-token distributions of a model of sequences of two tokens out of three: [first], [second given first]."""
    return torch.log_softmax(logits[0], -1), torch.log_softmax(logits[1:], -1)


def test_reverse_kl_credit_is_the_gradient_of_the_kl_at_the_prefixes_visited():
    """Enumerated: E_student sum_t A_t grad log p_t = -grad of E_student sum_t KL_t with the prefixes held fixed."""
    torch.manual_seed(0)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    first, second = tokens_of(logits)
    their_first, their_second = tokens_of(torch.randn(4, 3, dtype=torch.float64))
    surrogate = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(range(3), range(3)):
        logprobs = torch.stack([first[a], second[a, b]])
        said = torch.stack([their_first[a], their_second[a, b]]).numpy()
        credit = reverse_kl(logprobs.detach().numpy(), said, np.array([True, True]))
        weight = float(logprobs.detach().sum().exp())
        surrogate = surrogate + weight * (torch.tensor(credit, dtype=torch.float64) * logprobs).sum()
    kl_first = (first.exp() * (first - their_first)).sum()
    kl_second = (second.exp() * (second - their_second)).sum(-1)
    visited = kl_first + (first.exp().detach() * kl_second).sum()
    found, wanted = (
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (surrogate, visited)
    )
    torch.testing.assert_close(found, -wanted, rtol=1e-5, atol=1e-6)


def test_the_two_on_policy_forms_want_different_things():
    """On one token: a student that equals its teacher is left alone by the one and sharpened by the other."""
    logits = torch.tensor(
        [math.log(0.6), math.log(0.3), math.log(0.1)], dtype=torch.float64, requires_grad=True
    )
    logp = torch.log_softmax(logits, -1)
    pushes = {}
    for name in ("reverse_kl", "teacher_score"):
        own = [np.array([True])] * 3
        student = [np.array([v], np.float32) for v in logp.detach().tolist()]
        if name == "reverse_kl":
            credit = [reverse_kl(s, s, own[0]) for s in student]
        else:  # one answer each of the three: the group's mean is a constant, which has no gradient
            credit = teacher_score(student, own, np.zeros(3))
        surrogate = sum(float(logp[v].detach().exp()) * float(credit[v][0]) * logp[v] for v in range(3))
        pushes[name] = torch.autograd.grad(surrogate, logits, retain_graph=True)[0]
    assert pushes["reverse_kl"].abs().max() == 0
    assert pushes["teacher_score"][0] > 0.05  # the likeliest gains, though the student was right already
