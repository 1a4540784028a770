"""Merge methods by hand: small vectors whose merge can be written down, ends, fixed points, and what is refused."""

import math

import numpy as np
import pytest
import torch

from rung.errors import UserError
from rung.merge import ties as ties_file
from rung.merge.blocks import blocks_of, weighted
from rung.merge.dare import dare, dare_ties, kept
from rung.merge.linear import ema_weights, linear, wise_ft_weights
from rung.merge.slerp import coefficients, slerp
from rung.merge.soup import greedy_soup
from rung.merge.task_arithmetic import task_arithmetic
from rung.merge.ties import END, bits, largest_below, likely, part_of, sampled, smallest_kept, ties


def merged(method, *tensors, size=1000, **options) -> torch.Tensor:
    made = [torch.as_tensor(t, dtype=torch.float32) for t in tensors]
    return torch.cat(list(method(blocks_of(*made, size=size), **options)))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


A, B, BASE = random(2000, seed=1), random(2000, seed=2), random(2000, seed=3)


@pytest.mark.parametrize(
    ("method", "copies", "options"),
    [
        (linear, 2, dict(weights=[0.3, 0.7])),
        (linear, 3, dict(weights=[1 / 3] * 3)),
        (linear, 3, dict(weights=[0.333, 0.333, 0.333])),
        (linear, 2, dict(weights=[-0.2, 1.2])),
        (linear, 4, dict(weights=ema_weights(4, 0.7))),
        (slerp, 2, dict(alpha=0.37)),
        (task_arithmetic, 3, dict(weights=[0.4, 1.3])),
        (ties, 3, dict(weights=[1.0, 1.0])),
        (dare, 3, dict(weights=[1.0, 1.0])),
        (dare_ties, 3, dict(weights=[1.0, 1.0])),
    ],
)
def test_a_model_merged_with_itself_is_itself(method, copies, options):
    assert torch.equal(merged(method, *[A] * copies, size=300, **options).float(), A)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (task_arithmetic, {}),
        (ties, dict(density=1.0)),
        (dare, dict(density=1.0)),
        (dare_ties, dict(density=1.0)),
    ],
)
def test_one_task_vector_whole_is_the_model(method, options):
    assert torch.equal(merged(method, BASE, A, weights=[1.0], **options).float(), A)
    half = merged(method, BASE, A, weights=[1.0], scale=0.5, **options)
    torch.testing.assert_close(half, (BASE.double() + A.double()) / 2, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("method", "options"),
    [(slerp, lambda alpha: dict(alpha=alpha)), (linear, lambda alpha: dict(weights=wise_ft_weights(alpha)))],
)
def test_the_ends_of_a_line_are_the_models_to_the_bit(method, options):
    a, b = A.clone(), B.clone()
    a[0], b[0] = -0.0, 1.0  # 1 * -0.0 + 0 * 1.0 would be +0.0
    a[1], b[1] = 1.0, -0.0
    for alpha, end in ((0.0, a), (1.0, b)):
        found = merged(method, a, b, size=300, **options(alpha)).float()
        assert found.view(torch.int32).tolist() == end.view(torch.int32).tolist()


def test_slerp_walks_along_the_arc():
    # 90 degrees between (2, 0) and (0, 2); a third of the way is 30 degrees, on the same circle.
    third = merged(slerp, [2.0, 0.0], [0.0, 2.0], alpha=1 / 3)
    expected = torch.tensor([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)], dtype=torch.float64)
    torch.testing.assert_close(third, expected)
    # The angle is one of the whole tensor, however it is cut.
    torch.testing.assert_close(merged(slerp, A, B, size=7, alpha=0.3), merged(slerp, A, B, alpha=0.3))


def test_slerp_takes_the_chord_where_there_is_no_arc():
    assert merged(slerp, [1.0, 2.0], [3.0, 6.0], alpha=0.5).tolist() == [2.0, 4.0]  # parallel
    assert merged(slerp, [1.0, 2.0], [-1.0, -2.0], alpha=0.25).tolist() == [0.5, 1.0]  # opposite
    assert merged(slerp, [0.0, 0.0], [4.0, 2.0], alpha=0.25).tolist() == [1.0, 0.5]  # no direction
    assert coefficients(0.9996, 0.25) == (0.75, 0.25)
    assert coefficients(0.9990, 0.25) != (0.75, 0.25)


def test_task_vectors_are_added_scaled_and_taken_away():
    base, one, two = [1.0, 1.0], [3.0, 1.0], [1.0, 5.0]  # task vectors (2, 0) and (0, 4)
    assert merged(task_arithmetic, base, one, two, weights=[1.0, 0.5]).tolist() == [3.0, 3.0]
    assert merged(task_arithmetic, base, one, two, weights=[1.0, 0.5], scale=2.0).tolist() == [5.0, 5.0]
    assert merged(task_arithmetic, base, one, two, weights=[-1.0, 0.0]).tolist() == [-1.0, 1.0]


ZERO, ONE, TWO = [0.0] * 4, [5.0, -4.0, 1.0, 0.5], [-1.0, -2.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The two largest of each, nowhere at the same place: each alone decides.
        (dict(weights=[1.0, 1.0], density=0.5), [5.0, -4.0, 3.0, 6.0]),
        # Sums 4, -6, 4, 6.5: in the first place only ONE agrees with its sign.
        (dict(weights=[1.0, 1.0], density=1.0), [5.0, -3.0, 2.0, 3.25]),
        # Sums 2, -10, 10, 18.5; means with weights 1 and 3 of those that agree.
        (dict(weights=[1.0, 3.0], density=1.0), [5.0, -2.5, 2.5, 4.625]),
        (dict(weights=[1.0, 1.0], density=0.5, scale=0.5), [2.5, -2.0, 1.5, 3.0]),
        # At density 0.1 of 4 entries still the largest one stays.
        (dict(weights=[1.0, 1.0], density=0.1), [5.0, 0.0, 0.0, 6.0]),
    ],
)
def test_ties_by_hand(options, expected):
    for size in (1000, 3):
        assert merged(ties, ZERO, ONE, TWO, size=size, **options).tolist() == expected


def test_ties_where_signs_balance_and_where_weights_cancel():
    assert merged(ties, [0.0], [1.0], [-1.0], weights=[1.0, 1.0], density=1.0).tolist() == [1.0]
    # 1 * 2 and -1 * -3 agree on +, and the weights add up to 0: the divisor is then 1.
    assert merged(ties, [0.0], [2.0], [-3.0], weights=[1.0, -1.0], density=1.0).tolist() == [5.0]


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("sample", "table"), [(1 << 17, 1 << 18), (40, 16), (1, 3)])
def test_the_smallest_kept_entry_is_that_of_a_sort(density, coarse, sample, table, monkeypatch):
    monkeypatch.setattr(ties_file, "SAMPLE", sample)
    monkeypatch.setattr(ties_file, "TABLE", table)
    taus = [random(3001, seed=s) * 10 ** (3 * s) for s in (0, 1)]
    if coarse:  # many equal entries, as between bf16 models, and zeros
        taus = [(tau / tau.abs().max() * 20).round() for tau in taus]
    found = smallest_kept(blocks_of(torch.zeros(3001), *taus, size=257), density)
    assert found == [nth_largest(tau, density) for tau in taus]


def nth_largest(tau: torch.Tensor, density: float) -> float:
    return float(np.sort(tau.abs().numpy())[::-1][max(1, int(density * len(tau))) - 1])


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 1.5, 1.0000001, 7.0, math.inf])
def test_a_sample_that_misleads_costs_passes_and_no_exactness(value, monkeypatch):
    """Every 3rd entry, every 9th and so on are alike, and they alone are in the sample."""
    monkeypatch.setattr(ties_file, "SAMPLE", 30)
    tau = random(2000)
    tau[::3] = value
    for density in (0.01, 0.2, 0.34, 0.5, 0.9):
        found = smallest_kept(blocks_of(torch.zeros(2000), tau, size=100), density)
        assert found == [nth_largest(tau, density)]


def test_passes_over_a_large_tensor_are_two(monkeypatch):
    """One for the sample, one to count: the sample of 1 in 27 is right, and its range fits the table."""
    tau, passes = random(2_000_000), []

    def counted():
        passes.append(1)
        return blocks_of(torch.zeros(2_000_000), tau)()

    assert smallest_kept(counted, 0.2) == [nth_largest(tau, 0.2)]
    assert len(passes) == 2


@pytest.mark.parametrize(("count", "step"), [(300, 1), (301, 3), (900, 3), (901, 9), (2500, 9)])
@pytest.mark.parametrize("size", [7, 100, 1000])
def test_a_sample_is_every_third_or_ninth_entry_however_the_blocks_fall(count, step, size, monkeypatch):
    monkeypatch.setattr(ties_file, "SAMPLE", 300)
    taus = [random(count, seed=s) for s in (0, 1)]
    found, samples = sampled(blocks_of(torch.zeros(count), *taus, size=size))
    assert found == count
    assert samples.tolist() == [bits(tau)[::step].tolist() for tau in taus]


def test_where_an_entry_lies_by_its_rank_in_a_sample():
    sample = np.random.default_rng(0).permutation(np.arange(1000, dtype=np.uint32))
    assert likely(sample, 1000, 1) == range(999, 1000)  # all were seen, so there is no doubt
    assert likely(sample, 1000, 1000) == range(0, 1)
    # The 200th of 1000 in a sample: 3 sqrt(1000 * 0.2 * 0.8) + 1 = 38.9 ranks to each side, 239th to 161st.
    assert likely(sample, 100_000, 20_000) == range(761, 840)
    assert likely(sample, 100_000, 1) == range(999, 1000) and likely(sample, 100_000, 100_000).start == 0


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (3, range(17, END)),  # the three above the range are the largest three
        (4, range(16, 17)),  # the last part is cut short by the range's end
        (5, range(13, 16)),
        (6, range(13, 16)),
        (7, range(10, 13)),
        (8, range(0, 10)),  # below the range
    ],
)
def test_the_part_with_an_entry_by_counts(wanted, expected):
    assert part_of(range(10, 17, 3), 3, np.array([1, 2, 1]), wanted) == expected


def test_the_part_is_never_an_empty_one():
    assert part_of(range(10, 20, 2), 0, np.array([1, 0, 0, 2, 0]), 3) == range(10, 12)


def test_what_is_kept_unless_said():
    ramp = torch.arange(1.0, 101.0)
    assert int((merged(ties, torch.zeros(100), ramp, weights=[1.0]) != 0).sum()) == 20
    many = torch.ones(20_000)
    for method in (dare, dare_ties):
        assert 0.09 < float((merged(method, many * 0, many, weights=[1.0]) != 0).double().mean()) < 0.11


@pytest.mark.parametrize(
    "cut", [0.0, 1e-45, 2.0**-126, 0.1, 1 / 3, 1.0, 1.0000001, 1.5, 2.0, 1e30, 3.4028234663852886e38]
)
def test_the_largest_float64_that_is_dropped(cut):
    cut = float(np.float32(cut))
    below = largest_below(cut)
    assert np.float32(np.nextafter(below, np.inf)) >= cut
    assert cut == 0 or np.float32(below) < cut


def test_a_model_that_is_not_finite_is_trimmed_all_the_same():
    """The merge refuses it later, by name; the search must come to an end."""
    tau = random(500)
    tau[:200] = torch.nan
    assert math.isnan(smallest_kept(blocks_of(torch.zeros(500), tau), 0.2)[0])
    tau[:200] = torch.inf
    assert smallest_kept(blocks_of(torch.zeros(500), tau), 0.2) == [math.inf]
    assert smallest_kept(blocks_of(torch.zeros(500), -tau), 0.4 + 1e-9) == [math.inf]


@pytest.mark.parametrize("method", [task_arithmetic, ties, dare, dare_ties])
def test_what_is_merged_is_left_as_it_was(method):
    models = [random(50, seed=s).double() for s in range(3)]
    before = [model.clone() for model in models]
    list(method(blocks_of(*models), weights=[1.0, 1.0]))
    assert all(torch.equal(*pair) for pair in zip(models, before, strict=True))


def test_entries_as_large_as_the_smallest_kept_stay_too():
    assert merged(ties, ZERO, [2.0, -2.0, 2.0, 1.0], weights=[1.0], density=0.25).tolist() == [2, -2, 2, 0]


def test_dare_keeps_the_expectation_and_scales_what_stays():
    tau = random(40_000)
    found = merged(dare, torch.zeros(40_000), tau, weights=[1.0], density=0.25, seed=5)
    stays = found != 0
    assert abs(stays.double().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 40_000)
    torch.testing.assert_close(found[stays], tau.double()[stays] * 4, atol=0, rtol=1e-12)


@pytest.mark.parametrize("method", [dare, dare_ties])
def test_dares_dice_do_not_depend_on_the_blocks_and_differ_from_model_to_model(method):
    options = dict(weights=[1.0, 1.0], density=0.4)
    whole = merged(method, BASE, A, B, seed=9, **options)
    assert torch.equal(whole, merged(method, BASE, A, B, size=33, seed=9, **options))
    assert not torch.equal(whole, merged(method, BASE, A, B, seed=10, **options))
    dice = [np.random.Generator(np.random.SFC64(9 + i)) for i in (0, 1)]
    masks = [kept(A, 0.4, die) for die in dice]
    assert 0.4 < (masks[0] == masks[1]).double().mean() < 0.64  # 0.52 if they are independent


def test_dare_ties_elects_among_what_is_left():
    one, two = torch.full((3000,), 2.0), torch.full((3000,), -1.0)
    found = merged(dare_ties, torch.zeros(3000), one, two, weights=[1.0, 1.0], density=0.5)
    # Both left or only one: 4 wins; only two left: -2; none: 0. Never their mean.
    assert set(found.tolist()) == {4.0, -2.0, 0.0}
    assert set(merged(dare, torch.zeros(3000), one, two, weights=[1.0, 1.0], density=0.5).tolist()) == {
        4.0, 2.0, -2.0, 0.0,
    }  # fmt: skip


def test_ema_weights_are_those_of_the_recursion():
    values = [3.0, -1.0, 4.0, 1.5]
    average = values[0]
    for value in values[1:]:
        average = 0.7 * average + 0.3 * value
    weights = ema_weights(4, 0.7)
    assert sum(weights) == pytest.approx(1, abs=1e-15)
    assert sum(w * v for w, v in zip(weights, values, strict=True)) == pytest.approx(average, abs=1e-15)
    assert ema_weights(3, 0.0) == [0.0, 0.0, 1.0] and ema_weights(1, 0.9) == [1.0]


def test_nothing_weighted_is_nothing():
    assert weighted([A, B], [0.0, 0.0]).abs().max() == 0


def test_the_greedy_soup_takes_what_does_not_hurt():
    # Of models 0 to 3, best first: 2, 0, 3, 1. 0 helps, 3 hurts, 1 leaves the metric as it is.
    scores = {(0,): 0.6, (1,): 0.1, (2,): 0.7, (3,): 0.5, (2, 0): 0.8, (2, 0, 3): 0.75, (2, 0, 1): 0.8}
    soup = greedy_soup(4, lambda members: scores[tuple(members)])
    assert soup.members == [2, 0, 1] and soup.metric == 0.8 and soup.alone == [0.6, 0.1, 0.7, 0.5]
    assert soup.tried == [((2, 0), 0.8), ((2, 0, 3), 0.75), ((2, 0, 1), 0.8)]
    assert greedy_soup(1, lambda members: -3.0).members == [0]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: merged(linear, A, B, weights=[0.5, 0.6]), "--weights 0.4545 0.5455"),
        (lambda: merged(linear, A, B, weights=[0.5, 0.502]), "--weights 0.499 0.501"),
        (lambda: merged(linear, A, B, weights=[1.0, -1.0]), "--weights 0.5 0.5"),
        (lambda: merged(slerp, A, B, alpha=1.2), "alpha is 1.2"),
        (lambda: wise_ft_weights(-0.1), "alpha is -0.1"),
        (lambda: merged(ties, BASE, A, weights=[1.0], density=0.0), "a density of 0"),
        (lambda: merged(ties, BASE, A, weights=[1.0], density=-0.2), "a density of -0.2"),
        (lambda: merged(dare, BASE, A, weights=[1.0], density=1.5), "a density of 1.5"),
        (lambda: merged(dare_ties, BASE, A, weights=[1.0], density=math.nan), "a density of nan"),
        (lambda: ema_weights(3, 1.0), "a decay of 1"),
    ],
)
def test_refused(run, message):
    with pytest.raises(UserError, match=message):
        run()
