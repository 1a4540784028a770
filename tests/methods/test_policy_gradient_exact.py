"""The whole family against truth that is computed otherwise: exact enumeration, finite differences, relations."""

import itertools

import numpy as np
import pytest
import torch
from policy_case import PROMPT, batch_of, case, run, scores_of

from rung.advantages.groups import group_mean, group_normalized, leave_one_out
from rung.methods import POLICY_GRADIENTS, find
from rung.methods.cispo import cispo
from rung.methods.dapo import dapo
from rung.methods.dr_grpo import dr_grpo
from rung.methods.grpo import grpo
from rung.methods.gspo import gspo
from rung.methods.policy_gradient import policy_gradient
from rung.methods.reinforce import reinforce
from rung.methods.rloo import rloo

# A world of four answers: at each state a softmax over two tokens; token 1 ends the answer, at most three tokens.
ANSWERS = [(1,), (0, 1), (0, 0, 1), (0, 0, 0)]
REWARD = np.array([0.3, 1.0, -0.5, 0.2])


def token_logprobs(theta_S2: torch.Tensor) -> list[torch.Tensor]:
    """Log-prob of each token of each answer; the state is how many tokens were written."""
    logprob_S2 = theta_S2.log_softmax(1)
    return [torch.stack([logprob_S2[state, token] for state, token in enumerate(a)]) for a in ANSWERS]


def theta() -> torch.Tensor:
    return torch.tensor([[0.2, -0.3], [0.5, 0.1], [-0.4, 0.6]], dtype=torch.float64, requires_grad=True)


def true_gradient() -> torch.Tensor:
    parameters = theta()
    probability = torch.stack([tokens.sum().exp() for tokens in token_logprobs(parameters)])
    assert probability.sum().item() == pytest.approx(1)
    return torch.autograd.grad((probability * torch.from_numpy(REWARD)).sum(), parameters)[0]


def expected_gradient(method, credit, group: int, **options) -> torch.Tensor:
    """-E[gradient of the loss], summed over every group that could be drawn with its probability."""
    parameters = theta()
    tokens = token_logprobs(parameters)
    chance = torch.stack([t.sum() for t in tokens]).exp().detach()
    total = torch.zeros_like(parameters)
    for drawn in itertools.product(range(len(ANSWERS)), repeat=group):
        advantage = credit(REWARD[list(drawn)])
        rows = [{"advantage": [a] * len(ANSWERS[i])} for a, i in zip(advantage, drawn, strict=True)]
        batch = batch_of(rows)
        loss = method(scores_of(batch, torch.cat([tokens[i] for i in drawn])), batch, **options)
        (gradient,) = torch.autograd.grad(loss.sum / loss.count, parameters, retain_graph=True)
        total -= chance[list(drawn)].prod() * gradient
    return total


def one_group(estimator):
    return lambda reward: estimator(reward, np.zeros(len(reward), int))


@pytest.mark.parametrize(
    ("method", "credit", "group", "options", "factor"),
    [
        (reinforce, lambda r: r, 1, {}, 1),
        (reinforce, lambda r: r - 0.7, 1, {}, 1),  # any baseline that does not depend on the answer
        (reinforce, lambda r: r, 2, {}, 1),
        (rloo, one_group(leave_one_out), 2, {}, 1),
        (rloo, one_group(leave_one_out), 4, {}, 1),
        (dr_grpo, one_group(group_mean), 2, {"max_length": 5}, 1 / 2 / 5),
        (dr_grpo, one_group(group_mean), 3, {"max_length": 3}, 2 / 3 / 3),
        (cispo, one_group(leave_one_out), 3, {"aggregation": "sequence_sum"}, 1),
        (policy_gradient, one_group(leave_one_out), 3, {"aggregation": "sequence_sum"}, 1),
    ],
)
def test_the_expected_gradient_is_the_policy_gradient(method, credit, group, options, factor):
    expected = (factor * true_gradient()).flatten().tolist()
    gradient = expected_gradient(method, credit, group, **options).flatten().tolist()
    assert gradient == pytest.approx(expected, abs=1e-7)  # credit travels as float32


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def test_grpos_length_and_deviation_terms_turn_the_gradient():
    """Dr.GRPO's claim, exactly: each of the two terms alone changes the direction, without both it is true."""
    true = true_gradient()
    length = expected_gradient(grpo, one_group(group_mean), 3)
    deviation = expected_gradient(rloo, one_group(group_normalized), 3)
    assert cosine(length, true) < 0.999
    assert cosine(deviation, true) < 0.9999
    neither = expected_gradient(grpo, one_group(group_mean), 3, aggregation="sequence_sum")
    assert cosine(neither, true) == pytest.approx(1, abs=1e-12)


# ---- finite differences ----

LOGPROB = [[-0.7, -1.9, -0.4], [-2.5], [-1.1, -0.2]]
COLUMNS = dict(
    advantage=[[1.3, 1.3, 1.3], [-0.8], [-0.5, -0.5]],
    old_logprob=[[-0.75, -1.5, -0.41], [-2.2], [-1.6, -0.27]],
    sampler_logprob=[[-0.7, -1.6, -0.2], [-2.3], [-1.2, -0.9]],
    reference_logprob=[[-1.2, -1.1, -0.5], [-1.8], [-2.0, -0.1]],
)
AGGREGATIONS = ["token", "sequence", "sequence_sum", "fixed"]
GRID = [
    dict(objective=objective, ratio=ratio, beta=beta, correction=correction, correction_level=level)
    for objective in ("reinforce", "clip")
    for ratio in ("token", "sequence")
    for beta in (0.0, 0.3)
    for correction, level in [("none", "token"), ("tis", "token"), ("tis", "sequence"), ("mis", "sequence")]
    if not (ratio == "sequence" and correction == "tis" and level == "token")
]


def differences(function, at: torch.Tensor, step: float = 1e-6) -> list[float]:
    slopes = []
    for i in range(len(at)):
        offset = torch.zeros_like(at)
        offset[i] = step
        slopes.append(((function(at + offset) - function(at - offset)) / (2 * step)).item())
    return slopes


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("options", GRID, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_gradients_agree_with_finite_differences(options, aggregation):
    """Wherever the value is what is minimised; a shared ratio under factors that differ by token is not that.

    (There the gradient is GSPO-token's: each token's own factor times the sequence's ratio.)
    """
    options = options | {"aggregation": aggregation, "max_length": 7, "dual_clip": 3.0, "weight_max": 1.2}
    columns = dict(COLUMNS, weight=[[0.5] * 3, [2.0], [1.0] * 2])
    scores, batch = case(LOGPROB, **columns)
    _, gradient = run(policy_gradient, scores, batch, **options)

    def value(logprob_M):
        return policy_gradient(scores_of(batch, logprob_M), batch, **options).sum

    assert gradient == pytest.approx(differences(value, scores.logprob_M.detach()), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_cispos_gradient_agrees_once_its_weight_is_held_still(ratio):
    scores, batch = case(LOGPROB, **COLUMNS)
    _, gradient = run(policy_gradient, scores, batch, objective="cispo", ratio=ratio, weight_max=1.1)
    old_M, advantage_M = batch.column("old_logprob").double(), batch.column("advantage").double()
    log_ratio_M = scores.logprob_M.detach() - old_M
    if ratio == "sequence":
        log_ratio_M = torch.cat([part.mean().expand(len(part)) for part in log_ratio_M.split([3, 1, 2])])
    weight_M = log_ratio_M.exp().clamp(max=1.1)
    held = differences(lambda p: -(weight_M * advantage_M * p).sum(), scores.logprob_M.detach())
    assert gradient == pytest.approx(held, rel=1e-6)


# ---- relations ----


def same(one, other):
    (a, gradient_a), (b, gradient_b) = one, other
    assert a.sum.item() == b.sum.item() and a.count == b.count
    assert gradient_a == gradient_b


def test_grpo_is_dapo_with_equal_clips_and_means_per_answer():
    scores, batch = case(LOGPROB, **COLUMNS)
    equal = run(dapo, scores, batch, clip_high=0.2, aggregation="sequence", beta=0.1)
    same(run(grpo, scores, batch, beta=0.1), equal)
    assert run(dapo, scores, batch)[1] != run(grpo, scores, batch)[1]


def test_on_policy_the_sequence_ratio_is_the_token_ratio():
    """GSPO does nothing for strictly on-policy updates; with an old policy that differs it does."""
    on = {"advantage": COLUMNS["advantage"]}
    same(run(gspo, *case(LOGPROB, **on)), run(grpo, *case(LOGPROB, **on)))
    wide = dict(clip_low=0.2, clip_high=0.2)
    off = case(LOGPROB, **COLUMNS)
    assert run(gspo, *off, **wide)[1] != pytest.approx(run(grpo, *off)[1])


def test_for_answers_of_one_token_the_sequence_ratio_is_the_tokens():
    columns = {name: [[row[0]] for row in rows] for name, rows in COLUMNS.items()}
    scores, batch = case([[row[0]] for row in LOGPROB], **columns)
    _, token = run(grpo, scores, batch)
    _, sequence = run(gspo, scores, batch, clip_low=0.2, clip_high=0.2)
    assert sequence == pytest.approx(token)


def test_length_bias_of_grpo_and_its_absence_in_dr_grpo():
    """Two wrong answers of 10 and 1000 tokens: per-token weights 100 : 1 in GRPO, equal in Dr.GRPO."""
    logprob, advantage = [[-1.0] * 10, [-1.0] * 1000], [[-1.0] * 10, [-1.0] * 1000]
    _, biased = run(grpo, *case(logprob, advantage=advantage))
    _, fixed = run(dr_grpo, *case(logprob, advantage=advantage), max_length=1000)
    assert biased[0] / biased[-1] == pytest.approx(100)
    assert fixed[0] == fixed[-1] == pytest.approx(1 / 1000)


def test_the_methods_differ():
    """No relation is an alias by accident: of the methods with a clip, no two give one gradient here."""
    scores, batch = case(LOGPROB, **COLUMNS)
    names = ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce"]
    options = {"dr_grpo": {"max_length": 7}, "dapo": {"clip_high": 0.4}}
    gradients = [tuple(run(find(n), scores, batch, **options.get(n, {}))[1]) for n in names]
    assert len(set(gradients)) == len(names)


# ---- how documents are laid into micro-batches ----

ROWS = [{name: rows[i] for name, rows in COLUMNS.items()} for i in range(3)]


@pytest.mark.parametrize("name", POLICY_GRADIENTS)
@pytest.mark.parametrize("options", [{}, {"beta": 0.3, "correction": "tis"}], ids=["plain", "all parts"])
def test_micro_batches_and_trunks_change_nothing(name, options):
    options = options | ({"max_length": 7} if name == "dr_grpo" else {})
    whole, gradient = run(find(name), *case(LOGPROB, **COLUMNS), **options)
    mean = [g / whole.count for g in gradient]
    for cuts in ([[0], [1], [2]], [[0, 1], [2]], [[0], [1, 2]]):
        parts = []
        for rows in cuts:
            batch = batch_of([ROWS[i] for i in rows])
            flat = torch.tensor(
                [p for i in rows for p in LOGPROB[i]], dtype=torch.float64, requires_grad=True
            )
            parts.append(run(find(name), scores_of(batch, flat), batch, **options))
        count = sum(loss.count for loss, _ in parts)
        assert [g / count for _, gradient in parts for g in gradient] == pytest.approx(mean)
        assert sum(loss.sum.item() for loss, _ in parts) == pytest.approx(whole.sum.item())
        for key, (total, tokens) in whole.metrics.items():
            assert sum(loss.metrics[key][0] for loss, _ in parts) == pytest.approx(total)
            assert sum(loss.metrics[key][1] for loss, _ in parts) == tokens
        for key, largest in whole.maxima.items():
            assert max(loss.maxima[key] for loss, _ in parts) == pytest.approx(largest)
    for groups in ([3], [2, 1]):
        scores, batch = case(LOGPROB, groups, **COLUMNS)
        assert len(batch) > 3 and len(batch.token_ids_N) < 3 * len(PROMPT) + 6
        same(run(find(name), scores, batch, **options), (whole, gradient))


@pytest.mark.parametrize("name", POLICY_GRADIENTS)
def test_the_path_without_an_old_policy_is_the_path_with_the_current_one_as_old(name):
    """Numbers that float32 columns hold exactly."""
    logprob = [[-0.5, -1.25, -3.0], [-2.5], [-1.125, -0.25]]
    options = {"max_length": 7} if name == "dr_grpo" else {}
    advantage = COLUMNS["advantage"]
    fast = run(find(name), *case(logprob, advantage=advantage), **options)
    same(fast, run(find(name), *case(logprob, advantage=advantage, old_logprob=logprob), **options))
