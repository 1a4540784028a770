"""The surrogate objectives: numbers by hand, limits, signs, what is always measured, mistakes refused."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_case import case, run

from rung.errors import UserError
from rung.methods import POLICY_GRADIENTS, find
from rung.methods.policy_gradient import policy_gradient
from rung.metrics import METRICS, derived
from rung.schema import leaves, method_settings

log = math.log


def one_token(ratio: float, advantage: float, logprob: float = -1.0, **options):
    """(loss, gradient in the log-prob) of one token whose probability is `ratio` times the old one."""
    columns = dict(advantage=[[advantage]], old_logprob=[[logprob - log(ratio)]])
    loss, gradient = run(policy_gradient, *case([[logprob]], **columns), **options)
    return loss.sum.item(), gradient[0]


@pytest.mark.parametrize(
    ("advantage", "ratio", "value", "gradient"),
    [
        (2, 1.1, -2.2, -2.2),  # inside the range: -r A, and its gradient is -r A too
        (2, 1.5, -2.4, 0),  # risen enough
        (2, 0.5, -1.0, -1.0),  # wanted and fallen: pulled back up however far it is
        (-2, 0.9, 1.8, 1.8),
        (-2, 0.5, 1.6, 0),  # fallen enough
        (-2, 1.5, 3.0, 3.0),  # unwanted and risen: pushed down without bound
        (0, 1.5, 0, 0),
    ],
)
def test_clip_by_hand(advantage, ratio, value, gradient):
    assert one_token(ratio, advantage) == pytest.approx((value, gradient), rel=1e-6)


@pytest.mark.parametrize(
    ("advantage", "ratio", "value", "gradient"),
    [
        (-2, 2.9, 5.8, 5.8),
        (-2, 7.0, 6.0, 0),  # 3 |A|
        (2, 7.0, -2.4, 0),  # positive advantages do not notice
    ],
)
def test_dual_clip_bounds_the_push_on_unwanted_tokens(advantage, ratio, value, gradient):
    assert one_token(ratio, advantage, dual_clip=3.0) == pytest.approx((value, gradient), rel=1e-6)


def test_clips_below_and_above_are_separate():
    assert one_token(1.25, 1)[1] == 0
    assert one_token(1.25, 1, clip_high=0.28)[1] == pytest.approx(-1.25, rel=1e-6)
    assert one_token(0.75, -1)[1] == 0
    assert one_token(0.75, -1, clip_low=0.3)[1] == pytest.approx(0.75, rel=1e-6)


@pytest.mark.parametrize(("ratio", "weight"), [(0.1, 0.5), (1.5, 1.5), (9.0, 5.0)])
def test_cispo_by_hand(ratio, weight):
    """-w A log p with a constant w: the value shows log p = -1, the gradient is -w A."""
    options = dict(objective="cispo", weight_min=0.5, weight_max=5.0)
    assert one_token(ratio, 2.0, **options) == pytest.approx((2 * weight, -2 * weight), rel=1e-6)


@given(ratio=st.floats(1e-3, 1e3), advantage=st.floats(0.01, 10), sign=st.sampled_from([-1, 1]))
def test_cispo_never_drops_a_gradient_and_the_clip_does(ratio, advantage, sign):
    gradient = one_token(ratio, sign * advantage, objective="cispo", weight_max=2.0)[1]
    assert gradient == pytest.approx(-sign * advantage * min(ratio, 2.0), rel=1e-5)
    dropped = one_token(ratio, sign * advantage)[1] == 0
    assert dropped == (ratio > 1.2 if sign > 0 else ratio < 0.8) or abs(abs(ratio - 1) - 0.2) < 1e-5


def test_cispo_without_bound_is_the_importance_weighted_gradient():
    assert one_token(3.0, 2.0, objective="cispo", weight_max=math.inf)[1] == pytest.approx(-6, rel=1e-6)
    assert one_token(3.0, 2.0, clip_high=math.inf)[1] == pytest.approx(-6, rel=1e-6)


def test_reinforce_does_not_look_at_the_ratio():
    assert one_token(3.0, 2.0, objective="reinforce") == pytest.approx((2.0, -2.0))


def test_the_sequence_ratio_by_hand():
    """Log-ratios 0.2 and -0.1: s = exp(0.05); every token carries s, the gradient of s A / 2 per token."""
    scores, batch = case([[-1.0, -2.0]], advantage=[[3.0, 3.0]], old_logprob=[[-1.2, -1.9]])
    loss, gradient = run(policy_gradient, scores, batch, ratio="sequence", aggregation="sequence")
    s = math.exp(0.05)
    assert loss.sum.item() == pytest.approx(-3 * s, rel=1e-6)
    assert gradient == pytest.approx([-1.5 * s] * 2, rel=1e-6)


def test_a_sequence_is_clipped_as_a_whole():
    """The first token alone is far outside and the second far inside; together they are outside."""
    scores, batch = case([[-1.0, -2.0]], advantage=[[3.0, 3.0]], old_logprob=[[-2.0, -2.0]])
    _, gradient = run(policy_gradient, scores, batch, ratio="sequence", clip_high=0.4)
    assert gradient == [0, 0]
    _, gradient = run(policy_gradient, scores, batch, ratio="token", clip_high=0.4)
    assert gradient == pytest.approx([0, -3])


def test_the_sequence_ratio_is_of_each_document_alone():
    columns = dict(advantage=[[1.0], [], [1.0, 1.0]], old_logprob=[[-2.0], [], [-1.0, -1.2]])
    scores, batch = case([[-1.9], [], [-1.0, -1.0]], **columns)
    _, gradient = run(policy_gradient, scores, batch, ratio="sequence", clip_high=1)
    assert gradient == pytest.approx([-math.exp(0.1)] * 3, rel=1e-6)


ROWS = dict(
    advantage=[[1.0, 2.0, 4.0], [3.0], [], [-1.0, 5.0]], weight=[[1.0, 0.5, 0.5], [1.0], [], [0.0, 0.0]]
)


@pytest.mark.parametrize(
    ("options", "value", "count", "name"),
    [
        (dict(aggregation="token"), 1 + 1 + 2 + 3, 3, "tokens"),
        (dict(aggregation="sequence"), (1 + 1 + 2) / 2 + 3, 2, "sequences"),
        (dict(aggregation="sequence_sum"), 1 + 1 + 2 + 3, 2, "sequences"),
        (dict(aggregation="fixed", max_length=10), 0.7, 2, "sequences"),
    ],
)
def test_what_counts_alike_by_hand(options, value, count, name):
    """The third document has no trained token and the fourth no weight: they count for nothing."""
    scores, batch = case([[-1.0] * 3, [-1.0], [], [-1.0] * 2], **ROWS)
    loss = policy_gradient(scores, batch, **options)
    assert (loss.sum.item(), loss.count, loss.count_name) == (pytest.approx(-value), count, name)
    left_out = policy_gradient(scores, replace(batch, left_out=(2.5, 4)), **options)
    assert left_out.sum == loss.sum and left_out.count == count + (2.5 if name == "tokens" else 4)


def test_without_old_log_probs_the_ratio_is_exactly_one():
    logprob = [[-0.3, -4.1, -1.7], [-2.2]]
    advantage = [[1.5, -2.5, 0.25], [3.0]]
    flat = [a for row in advantage for a in row]
    loss, gradient = run(policy_gradient, *case(logprob, advantage=advantage))
    assert loss.sum.item() == -sum(flat)
    assert gradient == [-a for a in flat]
    assert loss.metrics["clipped_low"] == loss.metrics["clipped_high"] == (0, 4)
    _, plain = run(policy_gradient, *case(logprob, advantage=advantage), objective="reinforce")
    _, weighted = run(policy_gradient, *case(logprob, advantage=advantage), objective="cispo")
    assert plain == weighted == gradient


@pytest.mark.parametrize("name", POLICY_GRADIENTS)
def test_every_method_raises_what_was_good_and_nothing_for_equal_rewards(name):
    options = dict(max_length=4) if name == "dr_grpo" else {}
    logprob = [[-0.5, -1.0], [-2.0]]
    _, gradient = run(find(name), *case(logprob, advantage=[[1.0, 1.0], [-1.0]]), **options)
    assert gradient[0] < 0 and gradient[1] < 0 < gradient[2]  # descending raises the good, lowers the bad
    loss, gradient = run(find(name), *case(logprob, advantage=[[0.0, 0.0], [0.0]]), **options)
    assert loss.sum.item() == 0 and gradient == [0, 0, 0]
    assert loss.count > 0  # an answer without credit still counts in the mean


@pytest.mark.parametrize("name", POLICY_GRADIENTS)
def test_every_methods_keywords_are_settings_with_help_and_take_any_part(name):
    settings = method_settings(f"rung.methods.{name}", name)
    assert all(leaf.help for leaf in leaves(settings).values())
    keywords = {leaf.key: leaf.default for leaf in leaves(settings).values()}
    known = {
        leaf.key
        for leaf in leaves(method_settings("rung.methods.policy_gradient", "policy_gradient")).values()
    }
    assert keywords.keys() <= known
    scores, batch = case([[-1.0]], advantage=[[2.0]], sampler_logprob=[[-1.0 - log(4.0)]])
    keywords |= dict(max_length=4)
    _, plain = run(find(name), scores, batch, **keywords)
    _, halved = run(find(name), scores, batch, **keywords, correction="tis", correction_max=3.0)
    assert halved == pytest.approx([3 * g for g in plain], rel=1e-6)
    with pytest.raises(TypeError, match="no_such_part"):
        find(name)(scores, batch, no_such_part=1)


def test_what_is_measured_by_hand():
    """Two tokens. old / sampler: 2 and 1/8. current / sampler: 4 and 1/8. reference - current: 0 and log 2."""
    columns = dict(
        advantage=[[1.0, -1.0]],
        old_logprob=[[-1.0 - log(2), -2.0]],
        sampler_logprob=[[-1.0 - log(4), -2.0 + log(8)]],
        reference_logprob=[[-1.0, -2.0 + log(2)]],
    )
    scores, batch = case([[-1.0, -2.0]], entropy=[0.5, 1.5], **columns)
    metrics = policy_gradient(scores, batch).metrics
    means = {name: total / count for name, (total, count) in metrics.items()}
    assert means == pytest.approx(
        {
            "clipped_low": 0,
            "clipped_high": 0.5,
            "entropy": 1,
            "sampler_gap": 2 * log(2),
            "sampler_kl": log(2),
            "sampler_kl3": (2 - log(2) - 1 + 1 / 8 + log(8) - 1) / 2,
            "importance_mean": 4.125 / 2,
            "importance_square": (16 + 1 / 64) / 2,
            "reference_kl": (1 - log(2)) / 2,
        },
        abs=1e-6,
    )
    assert derived(means) == {"effective_share": pytest.approx(4.125**2 / (2 * (16 + 1 / 64)))}
    largest = policy_gradient(scores, batch).maxima
    assert largest == pytest.approx({"ratio_max": 2, "sampler_gap_max": log(8)}, abs=1e-6)
    corrected = policy_gradient(scores, batch, correction="mis").metrics
    assert {*corrected, *largest, *derived(means)} <= METRICS.keys()
    assert derived({"loss": 1.0}) == {}


@pytest.mark.parametrize(
    ("advantage", "ratio", "low", "high"),
    [(1, 1.5, 0, 1), (1, 0.5, 0, 0), (-1, 0.5, 1, 0), (-1, 1.5, 0, 0), (0, 0.5, 0, 0), (1, 1.1, 0, 0)],
)
def test_a_token_counts_as_clipped_where_it_lost_its_gradient(advantage, ratio, low, high):
    columns = dict(advantage=[[advantage]], old_logprob=[[-1 - log(ratio)]])
    metrics = policy_gradient(*case([[-1.0]], **columns)).metrics
    assert (metrics["clipped_low"], metrics["clipped_high"]) == ((low, 1), (high, 1))


DEFAULTS = {
    "grpo": dict(clip_low=0.2, clip_high=0.2, aggregation="sequence", beta=0.0, dual_clip=0.0),
    "dr_grpo": dict(clip_low=0.2, clip_high=0.2, aggregation="fixed"),
    "dapo": dict(clip_low=0.2, clip_high=0.28, aggregation="token", dual_clip=0.0),
    "gspo": dict(clip_low=3e-4, clip_high=4e-4, ratio="sequence", aggregation="sequence"),
    "cispo": dict(weight_min=0.0, weight_max=5.0, aggregation="token"),
    "reinforce_plus_plus": dict(clip_low=0.2, clip_high=0.2, aggregation="token"),
    "reinforce": dict(aggregation="sequence_sum"),
    "rloo": dict(aggregation="sequence_sum"),
    "remax": dict(aggregation="sequence_sum"),
    "reason_maxxer": dict(kl=0.2),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_the_vetted_setting(name):
    keywords = leaves(method_settings(f"rung.methods.{name}", name))
    assert DEFAULTS[name].items() <= {key: leaf.default for key, leaf in keywords.items()}.items()


def test_nothing_trained_adds_zero_to_sum_and_count():
    loss = policy_gradient(*case([[], []], advantage=[[], []], sampler_logprob=[[], []]))
    assert (loss.sum.item(), loss.count, loss.metrics) == (0, 0, {})


def test_the_entropy_bonus_raises_entropy():
    scores, batch = case([[-1.0, -2.0]], entropy=[0.5, 1.5], advantage=[[0.0, 0.0]])
    loss = policy_gradient(scores, batch, entropy_bonus=0.1)
    loss.sum.backward()
    assert loss.sum.item() == pytest.approx(-0.2)
    assert scores.entropy_M.grad.tolist() == pytest.approx([-0.1, -0.1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(aggregation="fixed"), "max_length"),
        (dict(dual_clip=0.9), "above 1"),
        (dict(entropy_bonus=0.1), "no entropy"),
    ],
)
def test_what_cannot_work_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        policy_gradient(*case([[-1.0]], advantage=[[1.0]]), **options)


@pytest.mark.parametrize(
    ("options", "column"),
    [(dict(beta=0.1), "reference_logprob"), (dict(correction="tis"), "sampler_logprob")],
)
def test_a_missing_column_is_named(options, column):
    with pytest.raises(KeyError, match=column):
        policy_gradient(*case([[-1.0]], advantage=[[1.0]]), **options)
