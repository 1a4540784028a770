"""Draws: the exact distribution for every option, judged by transformers' own processors in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rung.rollouts import draw as module
from rung.rollouts.draw import Dials, draw, uniforms
from rung.rollouts.request import Completion, Sampling

CPU = torch.device("cpu")
PROMPT, SAID = (3, 3, 7), [1, 9]
STOPS = (0, 4)


def row(sampling, seed=0, prompt=PROMPT, said=SAID):
    return Completion(prompt, replace(sampling, seed=seed), token_ids=list(said))


def logits(vocabulary, spread=1.3, seed=0):
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def oracle(raw_V, sampling, prompt=PROMPT, said=SAID):
    """The distribution in float64: each option is transformers' processor for it, in the documented order."""
    ids, scores = torch.tensor([[*prompt, *said]]), raw_V.double()[None]
    s = sampling
    if s.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(s.repetition_penalty)(ids, scores)
    for token, bias in s.logit_bias:
        scores[0, token] += bias
    if s.min_tokens:
        scores = MinNewTokensLengthLogitsProcessor(len(prompt), s.min_tokens, list(s.stop_ids))(ids, scores)
    for wanted, processor in (
        (s.temperature != 1, lambda: TemperatureLogitsWarper(s.temperature)),
        (s.top_k, lambda: TopKLogitsWarper(s.top_k)),
        (s.top_p < 1, lambda: TopPLogitsWarper(s.top_p)),
        (s.min_p, lambda: MinPLogitsWarper(s.min_p)),
    ):
        scores = processor()(ids, scores) if wanted else scores
    return scores[0].softmax(-1)


OPTIONS = {
    "plain": Sampling(),
    "hot": Sampling(temperature=1.7),
    "cool": Sampling(temperature=0.4),
    "top-k": Sampling(top_k=5),
    "top-k 1": Sampling(top_k=1),
    "top-k beyond the vocabulary": Sampling(top_k=10_000),
    "top-p": Sampling(top_p=0.7),
    "top-p small": Sampling(top_p=0.01),
    "top-p nearly all": Sampling(top_p=0.995),
    "min-p": Sampling(min_p=0.1),
    "penalty": Sampling(repetition_penalty=1.8),
    "reward for repeating": Sampling(repetition_penalty=0.5),
    "bias": Sampling(logit_bias=((2, 3.0), (5, -2.0), (6, -1e9))),
    "minimum length": Sampling(min_tokens=3, stop_ids=STOPS),
    "minimum length reached": Sampling(min_tokens=2, stop_ids=STOPS),
    "temperature before top-p": Sampling(temperature=2.0, top_p=0.7),
    "temperature before min-p": Sampling(temperature=0.5, min_p=0.1),
    "top-k before top-p": Sampling(top_k=6, top_p=0.8),
    "top-p before min-p": Sampling(temperature=1.5, top_p=0.6, min_p=0.25),
    "penalty before bias": Sampling(repetition_penalty=2.0, logit_bias=((3, 1.5), (7, -1.5))),
    "all": Sampling(
        temperature=1.4, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.3,
        logit_bias=((1, 2.0), (8, -1.0)), min_tokens=4, stop_ids=STOPS,
    ),
}  # fmt: skip


def p_value(counts_V, probabilities_V):
    """Of Pearson's chi-square; ids expected fewer than five times are one class."""
    expected_V = probabilities_V * counts_V.sum()
    often = expected_V >= 5
    observed = torch.cat([counts_V[often], counts_V[~often].sum()[None]]).double()
    expected = torch.cat([expected_V[often], expected_V[~often].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    if len(expected) == 1:
        return 1.0
    statistic = ((observed - expected).square() / expected).sum()
    half = torch.tensor((len(expected) - 1) / 2, dtype=torch.double)
    return torch.special.gammaincc(half, statistic / 2).item()


COUNT = 6000


@pytest.mark.parametrize(
    ("name", "vocabulary"), [*((name, 12) for name in OPTIONS), ("plain", 300), ("top-p", 700), ("all", 300)]
)
def test_frequencies_and_log_probs_are_those_of_the_exact_distribution(name, vocabulary):
    sampling, raw_V = OPTIONS[name], logits(vocabulary)
    rows = [row(sampling, seed) for seed in range(COUNT)]
    drawn = draw(raw_V.expand(COUNT, -1), Dials.of(rows, CPU))
    exact_V = oracle(raw_V, sampling)
    counts_V = torch.bincount(drawn.tokens_B, minlength=vocabulary)
    assert not counts_V[exact_V == 0].any()
    assert p_value(counts_V, exact_V) > 1e-3  # the draws are fixed: this either holds or does not
    torch.testing.assert_close(
        drawn.sampler_logprob_B, exact_V.log()[drawn.tokens_B].float(), rtol=1e-5, atol=2e-6
    )
    raw_logprob_V = raw_V.double().log_softmax(-1)
    torch.testing.assert_close(
        drawn.policy_logprob_B, raw_logprob_V[drawn.tokens_B].float(), rtol=1e-5, atol=2e-6
    )


def test_the_bound_on_p_would_notice_a_neighbouring_distribution():
    """Draws of one option judged by another: a wrong cut, a wrong order, a temperature off by a fifth."""
    raw_V = logits(12)
    wrong = [
        ("top-k", Sampling(top_k=4)),
        ("top-k", Sampling(top_k=6)),
        ("top-p", Sampling(top_p=0.6)),
        ("top-p", Sampling(top_p=0.85)),
        ("min-p", Sampling(min_p=0.2)),
        ("hot", Sampling(temperature=1.4)),
        ("penalty", Sampling(repetition_penalty=1.3)),
        ("minimum length", Sampling()),
        ("temperature before top-p", Sampling(top_p=0.7)),
    ]
    for name, other in wrong:
        rows = [row(OPTIONS[name], seed) for seed in range(COUNT)]
        counts_V = torch.bincount(draw(raw_V.expand(COUNT, -1), Dials.of(rows, CPU)).tokens_B, minlength=12)
        exact_V = oracle(raw_V, other)
        assert counts_V[exact_V == 0].any() or p_value(counts_V, exact_V) < 1e-6, name


def test_rows_of_one_batch_keep_their_own_options():
    """All options side by side, greedy among them: each row's numbers are those it has alone."""
    every = [*OPTIONS.values(), Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=3.0)]
    raw_BV = torch.stack([logits(300, seed=i) for i in range(len(every))])
    rows = [row(s, seed, said=[seed, 5]) for seed, s in enumerate(every)]
    together = draw(raw_BV, Dials.of(rows, CPU))
    for i, one in enumerate(rows):
        alone = draw(raw_BV[i : i + 1], Dials.of([one], CPU))
        assert together.tokens_B[i] == alone.tokens_B[0]
        assert together.sampler_logprob_B[i] == alone.sampler_logprob_B[0]
        if one.sampling.temperature:
            exact_V = oracle(raw_BV[i], one.sampling, said=one.token_ids)
            expected = exact_V.log()[together.tokens_B[i]].item()
            assert together.sampler_logprob_B[i].item() == pytest.approx(expected, abs=2e-6, rel=1e-5)


def test_greedy_is_the_largest_after_the_edits_with_log_prob_zero():
    raw_V = torch.tensor([0.0, 3.0, 2.9, -1.0])
    cases = [
        (Sampling(temperature=0, top_p=0.1), 1),
        (Sampling(temperature=0, logit_bias=((2, 0.2),)), 2),
        (Sampling(temperature=0, repetition_penalty=1.5), 2),  # 1 was said
        (Sampling(temperature=0, min_tokens=5, stop_ids=(1, 2)), 0),
    ]
    rows = [row(s, prompt=(3,), said=[1]) for s, _ in cases]
    drawn = draw(raw_V.expand(len(rows), -1), Dials.of(rows, CPU))
    assert drawn.tokens_B.tolist() == [wanted for _, wanted in cases]
    assert drawn.sampler_logprob_B.tolist() == [0.0] * len(cases)
    torch.testing.assert_close(drawn.policy_logprob_B, raw_V.log_softmax(-1)[drawn.tokens_B])


def test_equal_scores_at_the_edge_of_a_cut_stay_in_together():
    raw_V = torch.tensor([2.0, 1.0, 1.0, 0.0])
    for sampling in (Sampling(top_k=2), Sampling(top_p=0.7)):
        rows = [row(sampling, seed) for seed in range(500)]
        assert set(draw(raw_V.expand(500, -1), Dials.of(rows, CPU)).tokens_B.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_a_top_p_set_larger_than_the_candidates_is_found_too(top_p, spread):
    """Nearly flat over 5,000 ids: the set has 1,500 to 4,995 members, more than are looked at first."""
    raw_BV = torch.stack([logits(5000, spread, seed) for seed in range(20)])
    drawn = draw(raw_BV, Dials.of([row(Sampling(top_p=top_p), seed) for seed in range(20)], CPU))
    sizes = []
    for raw_V, token, logprob in zip(raw_BV, drawn.tokens_B, drawn.sampler_logprob_B, strict=True):
        exact_V = oracle(raw_V, Sampling(top_p=top_p))
        sizes.append(int((exact_V > 0).sum()))
        # At an edge decided by the last bits of a sum, one id more or less is right too.
        assert logprob.item() == pytest.approx(exact_V[token].log().item(), abs=1e-3)
    assert (min(sizes) > module.CANDIDATES) == (spread < 1 or top_p > 0.99)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 700),
    st.floats(0.2, 3),
    st.integers(0, 20),
    st.floats(0.05, 1),
    st.floats(0, 0.5),
    st.floats(0.6, 2),
    st.integers(0, 10_000),
)
def test_any_options_together_give_the_oracles_log_prob(size, temperature, k, p, min_p, penalty, seed):
    sampling = Sampling(
        temperature=temperature, top_k=k, top_p=p, min_p=min_p, repetition_penalty=penalty
    )  # fmt: skip
    raw_V = logits(max(size, 12), seed=seed)
    drawn = draw(raw_V[None], Dials.of([row(sampling, seed)], CPU))
    exact_V = oracle(raw_V, sampling)
    # An id that stands within rounding of an edge may fall on either side: then the mass differs by its own.
    edges = exact_V[exact_V > 0].min().item()
    assert drawn.sampler_logprob_B.exp().item() == pytest.approx(
        exact_V[drawn.tokens_B].item(), rel=1e-4 + 2 * edges
    )


def test_entropy_and_likeliest_tokens_are_of_the_models_own_distribution():
    raw_BV = torch.stack([logits(300, seed=seed) for seed in range(6)])
    asked = Sampling(temperature=0.5, top_k=3, entropy=True, top_logprobs=4, logit_bias=((0, 50.0),))
    drawn = draw(raw_BV, Dials.of([row(asked, seed) for seed in range(6)], CPU))
    exact_BV = raw_BV.double().log_softmax(-1)
    torch.testing.assert_close(
        drawn.entropy_B.double(), -(exact_BV.exp() * exact_BV).sum(-1), rtol=1e-5, atol=1e-6
    )
    best = exact_BV.topk(4)
    assert torch.equal(drawn.top_ids_Bk, best.indices)
    torch.testing.assert_close(drawn.top_logprobs_Bk.double(), best.values, rtol=1e-5, atol=1e-6)
    one_impossible = torch.tensor([[1.0, -torch.inf, 1.0]])
    drawn = draw(one_impossible, Dials.of([row(Sampling(entropy=True))], CPU))
    assert drawn.entropy_B.item() == pytest.approx(0.6931472)


def test_logits_in_half_precision_are_read_in_float32_and_left_alone():
    raw_BV = torch.stack([logits(300, seed=seed) for seed in range(4)]).bfloat16()
    before = raw_BV.clone()
    rows = [row(OPTIONS["all"], seed) for seed in range(4)]
    drawn = draw(raw_BV, Dials.of(rows, CPU))
    wide = draw(raw_BV.float(), Dials.of(rows, CPU))
    assert torch.equal(raw_BV, before)
    assert torch.equal(drawn.tokens_B, wide.tokens_B)
    assert torch.equal(drawn.sampler_logprob_B, wide.sampler_logprob_B)


# ---- dice ----


def splitmix(seed, place):
    """The same hash in Python's integers: a run that is resumed under another version must draw the same."""
    mask = (1 << 64) - 1

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    start = ((seed & (1 << 63) - 1) * 0x9E3779B97F4A7C15 + 1442695040888963407) & mask
    return (mix(mix(start) ^ (place * 0xBF58476D1CE4E5B9 & mask)) >> 11) * 2.0**-53


@given(st.integers(-(2**70), 2**70), st.integers(0, 200_000))
def test_the_dice_are_a_known_hash_of_seed_and_place(seed, place):
    class Row:
        sampling = Sampling(seed=seed)
        token_ids = range(place)

    [value] = uniforms([Row()], CPU).tolist()
    assert value == splitmix(seed, place)
    assert 0 <= value < 1


def grid(seeds, places):
    return torch.stack([
        uniforms([row(Sampling(), seed, said=range(place)) for seed in range(seeds)], CPU)
        for place in range(places)
    ])  # fmt: skip


def test_the_dice_are_even_and_neighbours_know_nothing_of_each_other():
    """1,000 seeds by 40 places. Frequencies in 100 bins, in pairs of neighbours, and correlations."""
    u = grid(1000, 40)
    assert u.unique().numel() == u.numel()
    flat = torch.full((100,), 0.01, dtype=torch.double)
    assert p_value(torch.bincount((u.flatten() * 100).long(), minlength=100), flat) > 1e-3
    low_bits = (u.flatten() * 2**53).long() % 100
    assert p_value(torch.bincount(low_bits, minlength=100), flat) > 1e-3
    for here, there in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:]), (u[1:, :-1], u[:-1, 1:])):
        pairs = (here * 10).long() * 10 + (there * 10).long()
        assert p_value(torch.bincount(pairs.flatten(), minlength=100), flat) > 1e-3
        correlation = torch.corrcoef(torch.stack([here.flatten(), there.flatten()]))[0, 1]
        assert abs(correlation) < 4 / here.numel() ** 0.5


def test_the_dice_of_a_row_do_not_depend_on_its_place_in_the_batch():
    rows = [row(Sampling(), seed, said=range(seed % 7)) for seed in range(50)]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniforms([rows[i] for i in order], CPU), uniforms(rows, CPU)[order])


@pytest.mark.parametrize("vocabulary", [3, 255, 256, 257, 700])
@pytest.mark.parametrize("u", [0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
def test_no_dice_draw_what_was_cut_away(vocabulary, u, monkeypatch):
    """The ends of the unit interval, when only a few ids anywhere in the vocabulary are possible."""
    monkeypatch.setattr(module, "uniforms", lambda rows, device: torch.full((len(rows),), u).double())
    for first in (0, 1, vocabulary // 2, vocabulary - 1):
        for last in {first, min(first + 1, vocabulary - 1), vocabulary - 1}:
            raw_BV = torch.full((1, vocabulary), -torch.inf)
            raw_BV[0, [first, last]] = torch.tensor([0.3, 0.3])
            drawn = draw(raw_BV, Dials.of([row(Sampling())], CPU))
            expected = first if u < 0.5 else last
            assert drawn.tokens_B.item() == expected
            assert drawn.sampler_logprob_B.item() == pytest.approx(0.0 if first == last else -0.6931472)


def test_a_draw_is_the_place_where_the_cumulative_distribution_passes_the_number():
    raw_BV = torch.stack([logits(700, seed=seed) for seed in range(400)])
    rows = [row(Sampling(), seed) for seed in range(400)]
    cumulative_BV = raw_BV.double().softmax(-1).cumsum(-1)
    expected_B = torch.searchsorted(cumulative_BV, uniforms(rows, CPU)[:, None], right=True).squeeze(1)
    assert torch.equal(draw(raw_BV, Dials.of(rows, CPU)).tokens_B, expected_B)


def test_a_blocks_float32_sum_that_is_rounded_up_points_at_no_id_that_was_cut(monkeypatch):
    """1 + 7e-8 is 1.00000012 in float32: a number up there lies behind the last id that is possible."""
    monkeypatch.setattr(module, "uniforms", lambda rows, device: torch.tensor([1 - 2.0**-53]).double())
    raw_BV = torch.full((1, 256), -torch.inf)
    raw_BV[0, :2] = torch.tensor([1.0, 7e-8]).log()
    assert draw(raw_BV, Dials.of([row(Sampling())], CPU)).tokens_B.item() == 1
