"""Thinking length: the effect within tasks, where the scatter across tasks says the opposite."""

import numpy as np
import pytest

from rung.errors import UserError
from rung.eval.thinking import budget_forcing, thinking_slope


def study(effect, seed=0, tasks=60, attempts=8):
    """Hard tasks are thought about longer and solved less; within a task doubling changes success by `effect`."""
    generator = np.random.default_rng(seed)
    hardness = generator.uniform(0, 1, tasks)
    tokens, right, keys = [], [], []
    for i, hard in enumerate(hardness):
        log_tokens = 6 + 5 * hard + generator.normal(0, 1, attempts)
        chance = np.clip(0.8 - 0.6 * hard + effect * (log_tokens - 6 - 5 * hard), 0, 1)
        tokens += list(2**log_tokens)
        right += list((generator.random(attempts) < chance).astype(float))
        keys += [f"t:{i}"] * attempts
    return tokens, right, keys


def test_two_attempts_by_hand():
    """Doubling twice from wrong to right: a half per doubling; the second task says nothing against it."""
    found = thinking_slope([10, 40, 10, 40], [0, 1, 0, 1], ["a", "a", "b", "b"])
    assert found.slope.value == pytest.approx(0.5) and found.across == pytest.approx(0.5)


def test_thinking_that_helps_is_seen_although_long_thoughts_fail_more():
    found = thinking_slope(*study(0.12))
    assert found.verdict == "more thinking helps" and found.across < 0
    assert found.slope.low <= 0.12 <= found.slope.high


def test_inverse_scaling_and_nothing():
    assert thinking_slope(*study(-0.12, 1)).verdict == "inverse scaling"
    verdicts = [thinking_slope(*study(0.0, seed)).verdict for seed in range(40, 80)]
    assert verdicts.count("undecided") >= 34


def test_equal_lengths_tell_nothing():
    with pytest.raises(UserError, match="0 of 2 tasks"):
        thinking_slope([5, 5, 9, 9], [0, 1, 0, 1], ["a", "a", "b", "b"])


def test_budget_forcing_by_hand():
    """0.2 to 0.4 over 1000 tokens, 0.4 to 0.4 over 1000, 0.2 to 0.4 over 2000: mean of 0.2, 0, 0.1."""
    found = budget_forcing(
        [1000, 2000, 3000], [0.2, 0.4, 0.4], [900, 2100, 50], [(0, 1000), (0, 2000), (0, 3000)]
    )
    assert (found.control, found.scaling, found.performance) == pytest.approx((2 / 3, 0.1, 0.4))
    with pytest.raises(UserError, match="two different budgets"):
        budget_forcing([1000, 1000], [0.1, 0.2], [1], [(0, 2)])
