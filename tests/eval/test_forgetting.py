"""What training cost elsewhere: by hand, against exact distributions, and with honest intervals."""

import math

import numpy as np
import pytest

from rung.eval.forgetting import kl_exact, kl_from_samples, pareto_front, perplexity_change, task_changes


def test_perplexity_by_hand_weighs_tokens_and_not_documents():
    before = [np.array([-1.0]), np.array([-2.0, -2.0, -2.0])]
    after = [np.array([-1.0]), np.array([-3.0, -3.0, -3.0])]
    found = perplexity_change(before, after)
    assert found.before == pytest.approx(math.exp(7 / 4)) and found.after == pytest.approx(math.exp(10 / 4))
    assert found.ratio.value == pytest.approx(math.exp(3 / 4))


def test_pairing_finds_a_small_loss_among_documents_of_every_difficulty():
    generator = np.random.default_rng(0)
    before = [-generator.exponential(level, 50) for level in generator.uniform(1, 5, 60)]
    after = [each - 0.03 + generator.normal(0, 0.05, 50) for each in before]
    found = perplexity_change(before, after)
    assert 1 < found.ratio.low < math.exp(0.03) < found.ratio.high < 1.06
    same = perplexity_change(before, [each + generator.normal(0, 0.05, 50) for each in before])
    assert same.ratio.low < 1 < same.ratio.high


def test_kl_of_whole_distributions():
    new = np.log([[0.5, 0.5], [0.9, 0.1]])
    base = np.log([[0.25, 0.75], [0.9, 0.1]])
    assert kl_exact(new, base) == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0])
    with np.errstate(divide="ignore"):
        never = np.log(np.array([[1.0, 0.0]]))
        assert kl_exact(never, np.log(np.array([[0.5, 0.5]]))) == pytest.approx([math.log(2)])
        assert kl_exact(never, never) == pytest.approx([0])
        assert kl_exact(np.log([[0.5, 0.5]]), never)[0] == math.inf


def test_kl_from_samples_finds_the_exact_one():
    generator = np.random.default_rng(1)
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.4, 0.3])
    drawn = [generator.choice(3, size=20, p=p) for _ in range(400)]
    found = kl_from_samples([np.log(p[d]) for d in drawn], [np.log(q[d]) for d in drawn])
    exact = float(p @ np.log(p / q))
    assert found.per_token.low <= exact <= found.per_token.high
    assert found.per_token.value == pytest.approx(exact, abs=0.02) and found.per_answer == pytest.approx(
        20 * exact, abs=0.4
    )


def test_the_estimate_by_hand():
    """log r = -1 and 0.5: (e^-1 - 1 + 1) + (e^0.5 - 1 - 0.5), over two tokens."""
    found = kl_from_samples([np.array([-1.0, -2.0])], [np.array([-2.0, -1.5])])
    assert found.per_answer == pytest.approx(math.exp(-1) + math.exp(0.5) - 1.5)
    assert found.per_token.value == pytest.approx(found.per_answer / 2)


def test_the_same_model_is_at_distance_zero():
    same = [np.array([-1.0, -2.0]), np.array([-0.5])]
    assert kl_from_samples(same, same).per_token.value == 0


def test_several_benchmarks_pay_for_being_several():
    def scores(bits):
        return {f"t:{i}": [float(b)] for i, b in enumerate(bits)}

    before = {"a": scores([1] * 10), "b": scores([1] * 10), "only": scores([1])}
    after = {"a": scores([0] * 6 + [1] * 4), "b": scores([1] * 10)}
    found = task_changes(before, after)
    assert list(found) == ["a", "b"]
    assert found["a"].comparison.p == 2 / 64 and found["a"].p_holm == 4 / 64
    assert found["a"].comparison.difference.value == pytest.approx(-0.6) and found["b"].p_holm == 1.0


def test_the_pareto_front():
    points = {"base": (0, 9), "good": (5, 9), "tuned": (8, 4), "worse": (7, 4), "twin": (8, 4), "mid": (6, 6)}
    assert pareto_front(points) == ["good", "tuned", "twin", "mid"]
    assert pareto_front({"one": (1, 1)}) == ["one"] and pareto_front({}) == []


def test_other_documents_are_refused():
    for wrong in ([np.zeros(2)], [np.zeros(3), np.zeros(1)]):
        with pytest.raises(ValueError, match="same documents"):
            perplexity_change([np.zeros(3)], wrong)
        with pytest.raises(ValueError, match="same answers"):
            kl_from_samples([np.zeros(3)], wrong)
