"""Sampling: greedy word for word with transformers, the exact distribution otherwise, and what is refused."""

import pytest
import torch
from decoder_case import CONTEXT, SIZES, VOCABULARY, opened, packed, reference, tokens
from transformers import AutoConfig, AutoModelForCausalLM

from rung.errors import UserError
from rung.models.load import load_model
from rung.rollouts import generate as module
from rung.rollouts.generate import Cache, Sampling, choose, generate, stream

COUNT = 16
GREEDY = Sampling(COUNT, temperature=0)
LENGTHS = (1, 9, 30, 4, 17, 9, 2)
CASES = [
    "llama", "mistral", "qwen2 window", "qwen3", "smollm3", "gemma2 hard caps", "gemma3_text",
    "qwen3_moe", "olmoe",
]  # fmt: skip


def prompts():
    return [tokens(length, 10 + seed).tolist() for seed, length in enumerate(LENGTHS)]


def greedy_by_transformers(theirs, prompt, stop_ids=None, count=COUNT):
    ids = torch.tensor([prompt])
    # A list that is empty would mean the config's own stop ids; -1 is no token.
    out = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
        eos_token_id=list(stop_ids or [-1]), pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    theirs = reference(request.param)
    return theirs, opened(theirs, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return opened(reference("llama"), tmp_path_factory.mktemp("llama"))


def stops_at_different_times(answers) -> tuple[int, ...]:
    """Ids that end the rows at different times, some never: found among what the model says anyway."""
    return tuple({answers[row][time] for row, time in enumerate((2, 5, 11, 0)) if row < len(answers)})


def cut(answer, stop_ids):
    ends = [time for time, token in enumerate(answer) if token in stop_ids]
    return answer[: ends[0] + 1] if ends else answer


def test_greedy_is_that_of_transformers_token_for_token(pair, monkeypatch):
    theirs, ours = pair
    expected = [greedy_by_transformers(theirs, prompt) for prompt in prompts()]
    assert generate(ours, prompts(), GREEDY) == expected

    stop_ids = stops_at_different_times(expected)
    kept = []
    monkeypatch.setattr(
        Cache, "keep", lambda cache, rows, keep=Cache.keep: (kept.append(rows.tolist()), keep(cache, rows))
    )
    stopping = generate(ours, prompts(), Sampling(COUNT, 0, stop_ids=stop_ids))
    assert stopping == [cut(answer, stop_ids) for answer in expected]
    assert len({len(answer) for answer in stopping}) > 1
    if len(kept) == 0:  # most rows went on: compaction is for the half that stops
        assert sum(len(answer) == COUNT for answer in stopping) > len(LENGTHS) / 2


def test_a_stop_id_is_kept_and_ends_the_row_as_in_transformers(pair):
    theirs, ours = pair
    prompt = prompts()[2]
    free = greedy_by_transformers(theirs, prompt)
    stop_ids = (free[4], 96)
    expected = greedy_by_transformers(theirs, prompt, stop_ids)
    assert expected[-1] == free[4]
    assert generate(ours, [prompt], Sampling(COUNT, 0, stop_ids=stop_ids)) == [expected]


def test_rows_stop_one_by_one_and_the_last_is_alone_in_the_cache(decoder, monkeypatch):
    """Seven rows that end after 1, 2, 3 .. tokens: the cache shrinks to 3 and to 1 rows, never by less."""
    sizes = []
    real = Cache.keep
    monkeypatch.setattr(
        Cache, "keep", lambda c, rows: (sizes.append((len(c.lengths_B), len(rows))), real(c, rows))
    )
    free = generate(decoder, prompts(), GREEDY)

    def choose_and_end_one(logits, sampling, generator):
        chosen = logits.argmax(-1)
        chosen[0] = 1  # the first living row ends
        return chosen

    monkeypatch.setattr(module, "choose", choose_and_end_one)
    answers = generate(decoder, prompts(), Sampling(COUNT, 0, stop_ids=(1,)))
    assert answers == [[*free[row][:row], 1] for row in range(len(LENGTHS))]
    assert sizes == [(7, 3), (3, 1)]


def test_alone_and_together_a_row_says_the_same(pair):
    _, ours = pair
    together = generate(ours, prompts(), GREEDY)
    assert [generate(ours, [prompt], GREEDY)[0] for prompt in prompts()] == together
    assert generate(ours, prompts()[::-1], GREEDY) == together[::-1]
    assert list(stream(ours, prompts()[1], GREEDY)) == together[1]


def test_log_probs_of_the_cache_are_those_of_training(pair):
    """Each step's logits against one packed forward over the finished text."""
    _, ours = pair
    seen, real = [], module.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose", lambda logits, *rest: (seen.append(logits), real(logits, *rest))[1])
        answers = generate(ours, prompts(), GREEDY)
    for row, (prompt, answer) in enumerate(zip(prompts(), answers, strict=True)):
        with torch.no_grad():
            states = packed(ours, [torch.tensor([*prompt, *answer])])
            expected = ours.logits(states[len(prompt) - 1 : -1])
        got = torch.stack([logits[row] for logits in seen])
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


PROBABILITIES = torch.tensor([0.06, 0.5, 0.04, 0.25, 0.15])


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        *((0.01, {1}), (0.49, {1}), (0.51, {1, 3}), (0.74, {1, 3}), (0.76, {1, 3, 4})),
        *((0.95, {0, 1, 3, 4}), (1.0, {0, 1, 2, 3, 4})),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_distribution_cut_to_the_smallest_set(top_p, kept, temperature):
    """Frequencies by chi-square; at temperature 1/2 probabilities are squared before the cut."""
    count = 20_000
    logits = (PROBABILITIES.log() * temperature + 3.0).expand(count, 5)  # so that both temperatures cut alike
    sampling = Sampling(temperature=temperature, top_p=top_p)
    drawn = choose(logits, sampling, torch.Generator().manual_seed(1))
    counts = torch.bincount(drawn, minlength=5)
    assert {i for i in range(5) if counts[i]} == kept
    inside = torch.tensor([i in kept for i in range(5)])
    expected = PROBABILITIES * inside / (PROBABILITIES * inside).sum() * count
    statistic = ((counts - expected)[inside] ** 2 / expected[inside]).sum().item()
    assert statistic < 20  # exceeded once in 2,000 with four degrees of freedom


def test_temperature_zero_is_the_largest_whatever_top_p():
    logits = torch.tensor([[0.0, 3.0, 2.9], [5.0, 1.0, 4.9]])
    assert choose(logits, Sampling(temperature=0, top_p=0.1), torch.Generator()).tolist() == [1, 0]


@torch.no_grad()
def test_two_sampled_tokens_follow_the_models_joint_distribution(decoder):
    """Marginals of the first and second token over 4,000 rows, against all continuations enumerated."""
    prompt, count = tokens(5, 3), 4000
    sampled = torch.tensor(generate(decoder, [prompt.tolist()] * count, Sampling(2, 0.7, seed=5)))
    one_more = [torch.cat((prompt, torch.tensor([v]))) for v in range(VOCABULARY)]
    logits = decoder.logits(packed(decoder, one_more)) / 0.7
    first = logits[4].softmax(-1)
    second = first @ logits[5::6].softmax(-1)
    for column, probabilities in ((0, first), (1, second)):
        counts = torch.bincount(sampled[:, column], minlength=VOCABULARY).float()
        expected = probabilities * count
        often = expected > 10
        observed = torch.cat((counts[often], counts[~often].sum()[None]))
        wanted = torch.cat((expected[often], expected[~often].sum()[None]))
        freedom = len(wanted) - 1
        assert freedom > 10
        assert ((observed - wanted) ** 2 / wanted).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_the_seed_decides(decoder):
    def say(seed):
        return generate(decoder, prompts(), Sampling(8, 1.0, seed=seed))

    assert say(1) == say(1) != say(2)
    same = generate(decoder, [prompts()[0]] * 6, Sampling(8, 1.0))
    assert len({tuple(answer) for answer in same}) > 1, "rows of one batch throw their own dice"


def test_sampling_leaves_no_gradient_and_the_mode_it_found(decoder):
    for training in (True, False):
        decoder.train(training)
        generate(decoder, prompts(), GREEDY)
        assert decoder.training is training
        words = stream(decoder, prompts()[0], GREEDY)
        next(words)
        words.close()
        assert decoder.training is training
        assert torch.is_grad_enabled()
    decoder.eval()


def test_nothing_asked_nothing_said(decoder):
    assert generate(decoder, [], GREEDY) == []


@pytest.mark.parametrize(
    ("asked", "sampling", "message"),
    [
        ([[5], []], GREEDY, "Prompt 2 of 2 is empty"),
        ([[5] * (CONTEXT - COUNT + 1)], GREEDY, f"with {COUNT} .* context of {CONTEXT}.*at most {COUNT - 1}"),
        ([[5] * (CONTEXT + 1)], GREEDY, "at most 0"),
        ([[5, VOCABULARY]], GREEDY, f"ids from 5 to {VOCABULARY}, but the model knows 0 to {VOCABULARY - 1}"),
        ([[5]], Sampling(temperature=-1), "temperature -1"),
        ([[5]], Sampling(top_p=0), "top-p 0"),
        ([[5]], Sampling(top_p=1.1), "top-p 1.1"),
        ([[5]], Sampling(max_tokens=0), "sample 0 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_refused_before_anything_is(asked, sampling, message, decoder):
    with pytest.raises(UserError, match=message):
        generate(decoder, asked, sampling)
    with pytest.raises(UserError, match=message):
        next(stream(decoder, asked[-1], sampling)) if len(asked) == 1 else generate(decoder, asked, sampling)


def test_the_context_can_be_filled_to_the_last_token(decoder):
    [answer] = generate(decoder, [[5] * (CONTEXT - COUNT)], GREEDY)
    assert len(answer) == COUNT


FALLBACKS = {
    "gpt2": dict(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=2),
    "gpt_neox": {k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
    "phi": SIZES,
}  # fmt: skip


@pytest.mark.parametrize("family", FALLBACKS)
def test_the_fallback_is_greedy_as_transformers_is(family, tmp_path):
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FALLBACKS[family])).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).train()  # GPT-2 drops out while it trains
    free = [greedy_by_transformers(theirs, prompt, count=8) for prompt in prompts()]
    assert generate(ours, prompts(), Sampling(8, 0)) == free
    stop_ids = stops_at_different_times([answer[:6] + answer for answer in free])
    assert generate(ours, prompts(), Sampling(8, 0, stop_ids=stop_ids)) == [cut(a, stop_ids) for a in free]
    assert ours.training
