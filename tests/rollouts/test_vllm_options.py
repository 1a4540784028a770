"""Sampling in vLLM's words, and every difference of meaning refused by name."""

import math

import pytest

from rung.errors import UserError
from rung.rollouts.request import Sampling
from rung.rollouts.vllm_options import options_of


def options(sampling, eos=2, tokenizer=True):
    return options_of(sampling, vocabulary=97, eos=eos, tokenizer=tokenizer)


def test_every_option_arrives():
    asked = Sampling(
        max_tokens=9, temperature=0.7, top_p=0.9, top_k=200, stop_ids=(2, 5, 1000), seed=11, min_tokens=3,
        logit_bias=((4, 1.5), (6, -1.0), (4, 0.5)),
    )  # fmt: skip
    assert options(asked) == {
        "max_tokens": 9, "min_tokens": 3, "temperature": 0.7, "top_k": 97, "top_p": 0.9, "min_p": 0.0,
        "repetition_penalty": 1.0, "logit_bias": [(4, 2.0), (6, -1.0)], "stop_token_ids": [2, 5],
        "stop": [], "seed": 11, "own_logprobs_as_sampled": False,
    }  # fmt: skip
    other = options(Sampling(min_p=0.1, top_k=3, repetition_penalty=1.2, stop_strings=("a", "bc")))
    assert (other["min_p"], other["top_k"], other["repetition_penalty"], other["stop"]) == (
        0.1, 3, 1.2, ["a", "bc"],
    )  # fmt: skip


def test_seeds_stay_apart_and_in_range():
    """A conversation's turns differ in bits above 48; vLLM reads -1 as no seed at all."""
    asked = [0, 1, 5 + (3 << 48), -1, (1 << 70) + 7]
    got = [options(Sampling(seed=seed))["seed"] for seed in asked]
    assert got == [0, 1, 5 + (3 << 48), (1 << 63) - 1, 7]


@pytest.mark.parametrize(
    ("sampling", "same"),
    [
        (Sampling(), True),
        (Sampling(temperature=0), True),
        (Sampling(temperature=0, top_k=3, top_p=0.5, min_p=0.2), True),  # nothing a greedy token would notice
        (Sampling(temperature=0, repetition_penalty=1.1), False),
        (Sampling(temperature=0, logit_bias=((3, 1.0),)), False),
        (Sampling(temperature=0, min_tokens=2, stop_ids=(2,)), False),
        (Sampling(temperature=0.9), False),
        (Sampling(top_p=0.9), False),
        (Sampling(top_k=9), False),
        (Sampling(min_p=0.1), False),
        (Sampling(stop_ids=(2,), stop_strings=("x",), seed=4, top_logprobs=3), True),
    ],
)
def test_when_the_log_prob_it_tells_is_the_models_own(sampling, same):
    assert options(sampling)["own_logprobs_as_sampled"] is same


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        (Sampling(entropy=True), "entropy=True"),
        (Sampling(temperature=0.001), "temperature 0.001"),
        (Sampling(temperature=2.5), "temperature 2.5"),
        (Sampling(min_p=0.1, top_p=0.9), r"min_p 0\.1 before top_p 0\.9"),
        (Sampling(repetition_penalty=1.1, logit_bias=((3, 1.0),)), "repetition_penalty after logit_bias"),
        (Sampling(stop_strings=("x",), min_tokens=2, stop_ids=(2,)), "stop_strings only after min_tokens 2"),
        (Sampling(min_tokens=2, stop_ids=(3,)), "end of text, 2"),
    ],
)
def test_what_would_mean_something_else_is_refused(sampling, told):
    with pytest.raises(UserError, match=told):
        options(sampling)


def test_what_only_sounds_alike_is_not():
    options(Sampling(min_p=0.1, top_p=0.9, temperature=0))
    options(Sampling(min_p=0.1, top_k=5))
    options(Sampling(min_tokens=2, stop_ids=(3,)), eos=None)
    options(Sampling(temperature=0.01))
    with pytest.raises(UserError, match="the model's folder has none"):
        options(Sampling(stop_strings=("x",)), tokenizer=False)


def test_top_k_and_min_p_commute_and_top_p_and_min_p_do_not():
    """Why one pair is handed over and the other refused, in numbers."""
    p = [0.5, 0.2, 0.15, 0.1, 0.05]

    def top_k(p, k):
        return renormalised([x if x >= sorted(p)[-k] else 0 for x in p])

    def min_p(p, share):
        return renormalised([x if x >= share * max(p) else 0 for x in p])

    def top_p(p, mass):
        kept, total = [0.0] * len(p), 0.0
        for i in sorted(range(len(p)), key=lambda i: -p[i]):
            if total < mass:
                kept[i], total = p[i], total + p[i]
        return renormalised(kept)

    def renormalised(p):
        return [x / sum(p) for x in p]

    def close(p, q):
        return all(math.isclose(x, y) for x, y in zip(p, q, strict=True))

    assert close(min_p(top_k(p, 3), 0.35), top_k(min_p(p, 0.35), 3))
    assert not close(min_p(top_p(p, 0.72), 0.2), top_p(min_p(p, 0.2), 0.72))
