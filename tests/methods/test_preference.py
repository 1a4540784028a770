"""Preference losses: numbers by hand, limits, finite differences, and no dependence on the layout."""

import math
from dataclasses import replace
from functools import partial
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_case import apart, case, gradient_of, mean_of, scores_of

from rung.batch import Batch, collate_pairs
from rung.errors import UserError
from rung.methods.apo import apo
from rung.methods.dpo import dpo
from rung.methods.dpop import dpop
from rung.methods.hinge import hinge
from rung.methods.ipo import ipo
from rung.methods.kto import kto
from rung.methods.orpo import log_odds, orpo
from rung.methods.rpo import rpo
from rung.methods.simpo import simpo
from rung.methods.slic import slic

LN2 = math.log(2)
PAIRED = {
    "dpo": partial(dpo, beta=0.5),
    "cdpo": partial(dpo, beta=0.5, label_smoothing=0.2),
    "robust": partial(dpo, beta=0.5, label_smoothing=0.2, robust=True),
    "ipo": partial(ipo, beta=0.5),
    "dpop": partial(dpop, beta=0.3, penalty=2.0),
    "rpo": partial(rpo, beta=0.5, alpha=0.7),
    "apo zero": partial(apo, beta=0.5),
    "apo down": partial(apo, beta=0.5, anchor="down"),
    "hinge": partial(hinge, beta=0.5),
    "slic": partial(slic, margin=1.5, weight=0.3),
    "simpo": partial(simpo, beta=2.0, gamma=0.5),
    "orpo": partial(orpo, weight=0.4),
}
REFERENCE_FREE = ("slic", "simpo", "orpo")
ALL = PAIRED | {"kto": partial(kto, beta=0.5, desirable_weight=1.2, undesirable_weight=0.8)}

# One pair: the chosen answer of 2 tokens went from -3 to -2, the rejected of 4 tokens from -4 to -6.
ONE = dict(
    chosen=[[-1.5, -0.5]],
    rejected=[[-1.0, -2.0, -1.0, -2.0]],
    start_chosen=[[-1.0, -2.0]],
    start_rejected=[[-1.0, -1.0, -1.0, -1.0]],
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


BY_HAND = {
    # s_w = 1, s_l = -2, margin 3, beta 0.5: logit 1.5
    "dpo": softplus(-1.5),
    "cdpo": 0.8 * softplus(-1.5) + 0.2 * softplus(1.5),
    "robust": (0.8 * softplus(-1.5) - 0.2 * softplus(1.5)) / 0.6,
    "ipo": (1 / 2 + 2 / 4 - 1.0) ** 2,  # per token 0.5 and -0.5: just at the target 1 / (2 * 0.5)
    "dpop": softplus(-0.3 * 3),  # the chosen answer rose, so nothing is paid
    "rpo": softplus(-1.5) + 0.7 * 2 / 2,
    "apo zero": 1 - sigmoid(0.5) + sigmoid(-1.0),
    "apo down": sigmoid(0.5) + 1 - sigmoid(1.5),
    "hinge": 0.0,  # 1 - 0.5 * 3 is below 0
    "slic": 0.0 + 0.3 * 1.0,  # log p: -2 and -6, 4 apart
    "simpo": softplus(-(2.0 * (-1.0 + 1.5) - 0.5)),
    # odds of p = e^-1 are 1 / (e - 1), of e^-1.5 are 1 / (e^1.5 - 1)
    "orpo": 1.0 + 0.4 * softplus(-math.log((math.exp(1.5) - 1) / (math.e - 1))),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_one_pair_by_hand(name):
    assert mean_of(PAIRED[name], *case(**ONE)) == pytest.approx(BY_HAND[name], abs=1e-12)


def test_dpop_pays_for_the_fall_of_the_chosen_answer():
    """Chosen -1 below the start, rejected -5: margin 4 less 2 * 1."""
    scores, batch = case([[-3.0]], [[-7.0]], [[-2.0]], [[-2.0]])
    assert mean_of(PAIRED["dpop"], scores, batch) == pytest.approx(softplus(-0.3 * (4 - 2)))
    chosen, rejected = gradient_of(PAIRED["dpop"], scores, batch)
    push = 0.3 * sigmoid(-0.6)
    assert (chosen, rejected) == pytest.approx((-push * 3, push))  # 1 for the margin and 2 for the fall


def test_hinge_and_slic_push_until_the_margin():
    near = case([[-1.0]], [[-1.5]])
    assert mean_of(hinge, *case([[-1.0]], [[-1.5]]), beta=0.5) == pytest.approx(1 - 0.25)
    assert mean_of(slic, *near, margin=2.0, weight=0.0) == pytest.approx(1.5)
    assert gradient_of(slic, *near, margin=2.0, weight=0.0) == [-1, 1]
    assert gradient_of(hinge, *case([[-1.0]], [[-9.0]]), beta=0.5) == [0, 0]


def test_dpo_gradient_by_hand():
    """d loss / d log p = -beta sigmoid(-logit) for each chosen token, the opposite for each rejected one."""
    push = 0.5 * sigmoid(-1.5)
    assert gradient_of(PAIRED["dpo"], *case(**ONE)) == pytest.approx([-push] * 2 + [push] * 4)


def test_equal_answers_give_log_2_and_cancel():
    same = [[-1.0, -2.0], [-0.5]]
    scores, batch = case(same, same, same, same)
    assert mean_of(dpo, scores, batch) == pytest.approx(LN2)
    gradient = torch.tensor(gradient_of(dpo, scores, batch))
    chosen, rejected = gradient[[0, 1, 4]], gradient[[2, 3, 5]]
    assert torch.equal(chosen, -rejected)  # the same tokens in both answers: parameters see exactly 0


@pytest.mark.parametrize("beta", [1e-3, 1e-6])
def test_small_beta_is_log_2_with_a_constant_push(beta):
    scores, batch = case(**ONE)
    assert mean_of(dpo, scores, batch, beta=beta) == pytest.approx(LN2, abs=2 * beta)
    assert gradient_of(dpo, scores, batch, beta=beta)[0] / beta == pytest.approx(-0.5, abs=2 * beta)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_ipo_rests_at_its_target_and_turns_round_beyond(beta):
    target = 1 / (2 * beta)
    at = case([[target, target]], [[0.0]])
    assert gradient_of(ipo, *at, beta=beta) == pytest.approx([0, 0, 0])
    beyond = gradient_of(ipo, *case([[target + 1, target + 1]], [[0.0]]), beta=beta)
    assert beyond == pytest.approx([1, 1, -2])


def test_ipo_does_not_depend_on_length():
    short, long = case([[0.3]], [[-0.1]]), case([[0.3] * 5], [[-0.1] * 3])
    assert mean_of(ipo, *short) == pytest.approx(mean_of(ipo, *long))


def test_simpo_and_orpo_and_slic_need_no_start():
    scores, batch = case([[-1.0, -1.0]], [[-2.0]])
    bare = Batch(**{**vars(batch), "columns": {}})
    for name in REFERENCE_FREE:
        loss = PAIRED[name](scores, bare)
        assert loss.sum.item() == pytest.approx(PAIRED[name](scores, batch).sum.item())
        assert {"chosen_logprob", "pair_accuracy"} <= loss.metrics.keys() and "margin" not in loss.metrics
    for name in PAIRED.keys() - set(REFERENCE_FREE):
        with pytest.raises(KeyError, match="reference_logprob"):
            PAIRED[name](scores, bare)


def test_simpo_gradient_is_shared_by_the_tokens_of_an_answer():
    gradient = gradient_of(simpo, *case([[-1.0] * 4], [[-1.0] * 2]), beta=2.0, gamma=0.0)
    assert gradient == pytest.approx([-0.25] * 4 + [0.5] * 2)


def test_odds():
    logprob = torch.tensor([math.log(0.5), math.log(0.8), -40.0, -1e-5], dtype=torch.float64)
    expected = [0, math.log(4), -40.0, math.log(1e5)]
    assert log_odds(logprob).tolist() == pytest.approx(expected, abs=1e-4)
    certain = torch.zeros(1, requires_grad=True)
    log_odds(certain).sum().backward()
    assert log_odds(certain).isfinite().all() and certain.grad.isfinite().all()


def test_robust_undoes_flipped_labels_on_average():
    """(1 - e) loss of the right order + e loss of the flipped one = the loss without noise."""
    right, wrong = case([[-1.0]], [[-3.0]]), case([[-3.0]], [[-1.0]])
    noisy = partial(dpo, beta=0.5, label_smoothing=0.3, robust=True)
    assert 0.7 * mean_of(noisy, *right) + 0.3 * mean_of(noisy, *wrong) == pytest.approx(
        mean_of(dpo, *right, beta=0.5)
    )


def test_smoothing_has_a_finite_optimum():
    """cDPO's loss is least where sigmoid(logit) = 1 - e."""
    logit = math.log(0.8 / 0.2)
    assert gradient_of(PAIRED["cdpo"], *case([[2 * logit]], [[0.0]])) == pytest.approx([0, 0])


def softly(chances, **options):
    """A case whose pairs say how sure they are, at the chosen answer's tokens; elsewhere the column holds rubbish."""
    scores, batch = case(**options)
    column_N = torch.full((len(batch.token_ids_N),), math.nan)
    starts = [0, *accumulate(batch.lengths)]
    for (first, _), chance in zip(batch.pairs, chances, strict=True):
        column_N[starts[first] : starts[first + 1]] = chance
    return scores, replace(batch, columns={**batch.columns, "probability": column_N})


def test_soft_labels_by_hand():
    """Margins 3 and -1 at beta 0.5, sure by 3/4 and by one half."""
    options = dict(chosen=[[2.0], [-1.0]], rejected=[[-1.0], [0.0]])
    first = 0.75 * softplus(-1.5) + 0.25 * softplus(1.5)
    second = (softplus(0.5) + softplus(-0.5)) / 2
    found = mean_of(dpo, *softly([0.75, 0.5], **options), beta=0.5, soft=True)
    assert found == pytest.approx((first + second) / 2)
    sure = softly([1.0, 1.0], **options)
    assert mean_of(dpo, *sure, beta=0.5, soft=True) == pytest.approx(mean_of(dpo, *sure, beta=0.5))
    with pytest.raises(KeyError, match="probability"):
        dpo(*case(**options), soft=True)


def test_soft_labels_have_their_optimum_at_the_logit_and_smoothing_comes_on_top():
    """The loss is least where sigmoid(beta margin) = p; with a share e flipped on top, at p (1 - e) + (1 - p) e."""
    at = lambda p: softly([0.9], chosen=[[2 * math.log(p / (1 - p))]], rejected=[[0.0]])  # noqa: E731
    assert gradient_of(dpo, *at(0.9), beta=0.5, soft=True) == pytest.approx([0, 0], abs=1e-7)
    both = partial(dpo, beta=0.5, soft=True, label_smoothing=0.2)
    assert gradient_of(both, *at(0.9 * 0.8 + 0.1 * 0.2)) == pytest.approx([0, 0], abs=1e-7)


def test_robust_soft_labels_undo_the_noise_on_average():
    """Labels that are p right and then flipped in a share e of cases: the mean of the robust loss is the soft loss."""
    scores, batch = softly([0.9], chosen=[[1.0]], rejected=[[-1.0]])
    right, wrong = (mean_of(dpo, *case([[x]], [[-x]]), beta=0.5) for x in (1.0, -1.0))
    noisy = 0.9 * 0.7 + 0.1 * 0.3
    robust = partial(dpo, beta=0.5, label_smoothing=0.3, robust=True)
    mean = noisy * mean_of(robust, *case([[1.0]], [[-1.0]])) + (1 - noisy) * mean_of(
        robust, *case([[-1.0]], [[1.0]])
    )
    assert mean == pytest.approx(0.9 * right + 0.1 * wrong)
    assert mean_of(dpo, scores, batch, beta=0.5, soft=True) == pytest.approx(0.9 * right + 0.1 * wrong)


@pytest.mark.parametrize("plain, special", [
    (partial(dpo, beta=0.3), partial(dpop, beta=0.3, penalty=0.0)),
    (partial(dpo, beta=0.3), partial(rpo, beta=0.3, alpha=0.0)),
    (partial(dpo, beta=0.3), partial(dpo, beta=0.3, robust=True)),
])  # fmt: skip
def test_members_of_the_family_become_dpo(plain, special):
    scores, batch = case(**ONE)
    assert mean_of(plain, scores, batch) == pytest.approx(mean_of(special, scores, batch))
    assert gradient_of(plain, scores, batch) == pytest.approx(gradient_of(special, scores, batch))


# ---- KTO ----

THUMBS = dict(
    chosen=[[-1.0, -1.0], [-2.0], [-0.5]],  # judged answers: log-ratios 1, -1 and 0.5
    rejected=[[-1.0], [-2.0], [-0.4]],  # mismatched ones: 2, 0.5 and -0.1, mean 0.8
    start_chosen=[[-1.5, -1.5], [-1.0], [-1.0]],
    start_rejected=[[-3.0], [-2.5], [-0.3]],
    labels=[True, False, False],
)


def test_kto_by_hand():
    good, bad = (
        1.2 * (1 - sigmoid(0.5 * (1 - 0.8))),
        [0.8 * (1 - sigmoid(0.5 * (0.8 - s))) for s in (-1, 0.5)],
    )
    scores, batch = case(**THUMBS)
    loss = ALL["kto"](scores, batch)
    assert loss.sum.item() == pytest.approx(good + sum(bad), rel=1e-6)  # the start is stored in float32
    assert (loss.count, loss.count_name) == (3, "answers") and "baseline" in loss.couples
    logged = {name: total / count for name, (total, count) in loss.metrics.items()}
    assert logged["kto_baseline"] == pytest.approx(0.8)
    assert (logged["chosen_change"], logged["rejected_change"]) == pytest.approx((1 / 2, -0.5 / 2))


def test_no_gradient_reaches_the_baseline():
    scores, batch = case(**THUMBS)
    gradient = gradient_of(ALL["kto"], scores, batch)
    judged, mismatched = [0, 1, 3, 5], [2, 4, 6]
    assert all(gradient[i] != 0 for i in judged)
    assert [gradient[i] for i in mismatched] == [0, 0, 0]


def test_a_negative_baseline_is_cut_at_zero():
    lower = THUMBS | {"rejected": [[-9.0], [-9.0], [-9.0]]}
    loss = ALL["kto"](*case(**lower))
    assert loss.metrics["kto_baseline"][0] == 0
    assert loss.sum.item() == pytest.approx(
        1.2 * (1 - sigmoid(0.5)) + 0.8 * (1 - sigmoid(0.5)) + 0.8 * (1 - sigmoid(-0.25)), rel=1e-6
    )


def test_thumbs_pull_their_own_way():
    gradient = gradient_of(kto, *case(**THUMBS))
    assert gradient[0] < 0 and gradient[3] > 0 and gradient[5] > 0


def test_labels_of_one_kind_in_a_micro_batch_are_fine():
    loss = kto(*case(**{**THUMBS, "labels": [True] * 3}))
    assert "rejected_change" not in loss.metrics and math.isfinite(loss.sum.item())


# ---- all of them ----

lengths = st.integers(1, 4)


@st.composite
def tables(draw):
    """Log-probs of policy and start for two to four pairs."""
    count = draw(st.integers(2, 4))
    value = st.floats(-4, -0.1)
    row = lambda n: st.lists(value, min_size=n, max_size=n)  # noqa: E731
    sizes = [(draw(lengths), draw(lengths)) for _ in range(count)]
    made = [[draw(row(size[side])) for size in sizes] for _ in range(2) for side in (0, 1)]
    labels = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return dict(
        zip(("chosen", "rejected", "start_chosen", "start_rejected"), made, strict=True), labels=labels
    )


# hinge, slic and dpop have corners: their gradients are tested by hand above
@pytest.mark.parametrize("name", sorted(ALL.keys() - {"hinge", "slic", "dpop"}))
@settings(max_examples=8, deadline=None)
@given(tables())
def test_gradients_are_those_of_finite_differences(name, table):
    scores, batch = case(**table)
    method = ALL[name]
    if name == "kto":  # its baseline has a gradient that must not be there: hold it fixed at 0
        table = table | {"rejected": [[-9.0] * len(r) for r in table["rejected"]]}
        scores, batch = case(**table)
    exact = gradient_of(method, scores, batch)
    flat = scores.logprob_M.detach()
    for i in range(len(flat)):
        if name == "kto" and exact[i] == 0:
            continue
        step = torch.zeros_like(flat)
        step[i] = 1e-5
        up, down = (method(scores_of(batch, flat + s), batch).sum.item() for s in (step, -step))
        assert exact[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=8, deadline=None)
@given(tables())
def test_trunk_and_branches_or_documents_alone_are_one(name, table):
    shared, alone = case(**table, layout=collate_pairs), case(**table, layout=apart)
    assert shared[1].parents and not alone[1].parents
    assert gradient_of(ALL[name], *shared) == gradient_of(ALL[name], *alone)
    assert ALL[name](*shared).metrics == ALL[name](*alone).metrics


@pytest.mark.parametrize("name", PAIRED)
@settings(max_examples=8, deadline=None)
@given(tables(), st.integers(1, 3))
def test_micro_batches_add_up_to_the_whole(name, table, cut):
    method, keys = PAIRED[name], ("chosen", "rejected", "start_chosen", "start_rejected")
    count = len(table["chosen"])
    parts = [range(0, min(cut, count - 1)), range(min(cut, count - 1), count)]
    cases = [case(**{k: [table[k][i] for i in part] for k in keys}) for part in parts]
    whole = case(**{k: table[k] for k in keys})
    losses = [method(*one) for one in cases]
    assert sum(one.sum.item() for one in losses) == pytest.approx(method(*whole).sum.item(), abs=1e-9)
    assert sum(one.count for one in losses) == method(*whole).count == count
    gradients = [g for one in cases for g in gradient_of(method, *one)]
    assert gradients == gradient_of(method, *whole)  # to the bit: pairs do not see each other
    for metric, (total, number) in method(*whole).metrics.items():
        assert sum(one.metrics[metric][0] for one in losses) == pytest.approx(total, abs=1e-9)
        assert sum(one.metrics[metric][1] for one in losses) == number
    assert all(not one.couples for one in losses)


def test_diagnostics_by_hand():
    """Two pairs: the one of ONE, and one whose both answers fell by 2 and by 1."""
    table = {k: [*v] for k, v in ONE.items()}
    for key, row in zip(table, ([-3.0], [-2.0, -1.0], [-1.0], [-1.0, -1.0]), strict=True):
        table[key].append(row)
    logged = {k: total / n for k, (total, n) in dpo(*case(**table)).metrics.items()}
    assert logged == pytest.approx({
        "chosen_logprob": (-2 - 3) / 3,
        "rejected_logprob": (-6 - 3) / 6,
        "chosen_change": (1 - 2) / 3,
        "rejected_change": (-2 - 1) / 6,
        "margin": (3 - 1) / 2,
        "pair_accuracy": 0.5,
        "both_fall": 0.5,
        "length_gap": (2 - 4 + 1 - 2) / 2,
    })  # fmt: skip


def test_a_policy_that_has_not_moved_stands_at_chance():
    same = [[-1.0, -2.0]], [[-0.5]]
    logged = dpo(*case(*same, *same)).metrics
    assert (logged["pair_accuracy"], logged["margin"], logged["both_fall"]) == ((0.5, 1), (0, 1), (0, 1))


@pytest.mark.parametrize("method, options, named", [
    (dpo, dict(beta=0.0), "--method.beta"),
    (dpo, dict(label_smoothing=0.5), "--method.label-smoothing"),
    (ipo, dict(beta=-1.0), "--method.beta"),
    (dpop, dict(penalty=-1.0), "--method.penalty"),
    (rpo, dict(alpha=-1.0), "--method.alpha"),
    (orpo, dict(weight=-1.0), "--method.weight"),
    (kto, dict(undesirable_weight=-1.0), "--method.undesirable-weight"),
    (slic, dict(margin=-1.0), "--method.margin"),
])  # fmt: skip
def test_options_that_cannot_work_are_refused_by_name(method, options, named):
    with pytest.raises(UserError, match=named):
        method(*case(**THUMBS), **options)
