"""The engine: greedy word for word with transformers, exact log-probs, requests that come, wait, and change weights."""

import numpy as np
import pytest
import torch
from decoder_case import CONTEXT, VOCABULARY, opened, packed, reference, tokens
from engine_case import (
    count_tokens,
    cut,
    greedy_by_transformers,
    many_prompts,
    prompts,
    scored,
    texts,
    tiny,
)  # fmt: skip

from rung.errors import UserError
from rung.models.lora import add_adapter
from rung.rollouts.engine import Engine
from rung.rollouts.request import Sampling
from rung.settings import Lora

COUNT = 16
GREEDY = Sampling(COUNT, temperature=0)
CASES = [
    "llama", "mistral", "qwen2 window", "qwen3", "smollm3", "gemma2 hard caps", "gemma3_text",
    "qwen3_moe", "olmoe",
]  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    theirs = reference(request.param)
    return theirs, opened(theirs, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("gemma"), "gemma2 hard caps")


@pytest.fixture
def changing(tmp_path):
    """A model of its own, whose weights a test may change."""
    return tiny(tmp_path)


# ---- greedy ----


def test_greedy_is_that_of_transformers_token_for_token(pair):
    theirs, ours = pair
    expected = [greedy_by_transformers(theirs, prompt) for prompt in prompts()]
    for slots, prefill in ((64, 2048), (3, 40), (1, 1)):
        assert (
            texts(Engine(ours, slots=slots, prefill_tokens=prefill).generate(prompts(), GREEDY)) == expected
        )
    stop_ids = (expected[0][2], expected[2][5], expected[4][11])
    answers = Engine(ours, slots=3).generate(prompts(), Sampling(COUNT, 0, stop_ids=stop_ids))
    assert texts(answers) == [cut(answer, stop_ids) for answer in expected]
    for [completion] in answers:
        stopped = completion.token_ids[-1] in stop_ids
        assert completion.finish == ("stop" if stopped else "length")
        assert len(completion.token_ids) == COUNT or stopped


def test_64_ragged_prompts_that_begin_alike_are_greedy_as_transformers_is(decoder):
    asked = many_prompts()
    theirs = reference("llama")
    expected = [greedy_by_transformers(theirs, prompt, count=10) for prompt in asked]
    assert len({len(p) for p in asked}) > 15 and len({tuple(p) for p in asked}) < 64
    for slots in (5, 64):
        assert texts(Engine(decoder, slots=slots).generate(asked, Sampling(10, 0))) == expected


def test_requests_that_come_while_others_are_sampled_change_nobody(decoder):
    """A new request every other step, each alone in what it asks for."""
    asked, theirs = prompts(), reference("llama")
    engine = Engine(decoder, slots=4, prefill_tokens=16)
    completions = []
    for number, prompt in enumerate(asked):
        completions.append(engine.submit(prompt, Sampling(4 + 2 * number, 0), key=number))
        engine.step()
        engine.step()
    engine.run()
    for number, (prompt, completion) in enumerate(zip(asked, completions, strict=True)):
        assert completion.token_ids == greedy_by_transformers(theirs, prompt, count=4 + 2 * number)
        assert completion.key == number


def test_more_requests_than_slots_wait_and_no_step_holds_more_than_the_slots(decoder):
    engine = Engine(decoder, slots=3)
    waiting = [engine.submit(p, Sampling(3 + i % 4, 0)) for i, p in enumerate(many_prompts(20))]
    most = 0
    while engine.busy:
        before = [len(c.token_ids) for c in waiting]
        engine.step()
        grown = sum(len(c.token_ids) - n for c, n in zip(waiting, before, strict=True))
        most = max(most, grown)
        assert grown <= 3 and len(engine.rows) <= 3
        left = sum(not c.finish for c in waiting)
        if left >= 3:
            assert grown == 3, "a slot stood empty while requests waited"
    assert most == 3
    assert [len(c.token_ids) for c in waiting] == [3 + i % 4 for i in range(20)]


def test_streamed_tokens_are_those_of_generate_and_come_one_step_at_a_time(decoder):
    engine = Engine(decoder)
    [[whole]] = engine.generate([prompts()[1]], GREEDY)
    words = engine.stream(prompts()[1], GREEDY)
    assert [next(words), next(words)] == whole.token_ids[:2]
    assert len(engine.rows[0].token_ids) == 2
    words.close()
    assert not engine.busy, "whoever stops listening frees the slot"
    assert list(engine.stream(prompts()[1], GREEDY)) == whole.token_ids


# ---- numbers ----


ASKED = [
    Sampling(12, 1.0, seed=1),
    Sampling(12, 0.6, seed=2),
    Sampling(12, 1.3, seed=3),
    Sampling(12, 1.0, seed=4, top_k=20, top_p=0.8, repetition_penalty=1.2, entropy=True, top_logprobs=3),
    Sampling(12, 0.0, seed=5),
]


@torch.no_grad()
def test_reported_numbers_are_those_of_one_forward_over_the_whole_text(pair):
    """log-probs, entropy and likeliest tokens summed in float64."""
    _, ours = pair
    engine = Engine(ours, slots=3)
    rows = [engine.submit(p, ASKED[i % len(ASKED)]) for i, p in enumerate(prompts())]
    engine.run()
    for row in rows:
        ids = torch.tensor([*row.prompt_ids, *row.token_ids])
        logits_TV = ours.logits(packed(ours, [ids]))[len(row.prompt_ids) - 1 : -1].double()
        said = torch.tensor(row.token_ids)[:, None]
        raw_TV = logits_TV.log_softmax(-1)
        assert row.policy_logprob == pytest.approx(raw_TV.gather(1, said).squeeze(1).tolist(), abs=2e-4)
        temperature = row.sampling.temperature
        if temperature == 0:
            assert row.sampler_logprob == [0.0] * 12
        elif not row.sampling.cuts:
            exact = (logits_TV / temperature).log_softmax(-1).gather(1, said).squeeze(1)
            assert row.sampler_logprob == pytest.approx(exact.tolist(), abs=4e-4)
        if row.sampling.entropy:
            assert row.entropy == pytest.approx((-(raw_TV.exp() * raw_TV).sum(-1)).tolist(), abs=2e-4)
            for (ids_k, logprobs_k), line_V in zip(row.top, raw_TV, strict=True):
                assert logprobs_k == pytest.approx(line_V.topk(3).values.tolist(), abs=2e-4)
                assert logprobs_k == pytest.approx(line_V[ids_k].tolist(), abs=2e-4)
        else:
            assert row.entropy == [] and row.top == []


def test_two_sampled_tokens_follow_the_models_joint_distribution(decoder):
    """Marginals of the first and second token over 4,000 samples, against all continuations enumerated."""
    prompt, count = tokens(5, 3), 4000
    [group] = Engine(decoder, slots=500).generate([prompt.tolist()], Sampling(2, 0.7, seed=5), n=count)
    sampled = torch.tensor([c.token_ids for c in group])
    one_more = [torch.cat((prompt, torch.tensor([v]))) for v in range(VOCABULARY)]
    with torch.no_grad():
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


def test_the_seed_decides_and_samples_of_one_prompt_throw_their_own_dice(decoder):
    def say(seed):
        return texts(Engine(decoder).generate(prompts(), Sampling(8, 1.0, seed=seed)))

    assert say(1) == say(1) != say(2)
    [group] = Engine(decoder).generate([prompts()[0]], Sampling(8, 1.0), n=6)
    assert len({tuple(c.token_ids) for c in group}) == 6


def test_columns_are_typed_as_rollouts_want_them(decoder):
    [[completion]] = Engine(decoder, version=7).generate([[5]], Sampling(4))
    columns = completion.columns()
    assert {name: (x.dtype, len(x)) for name, x in columns.items()} == {
        "token_ids": (np.int32, 4), "sampler_logprob": (np.float32, 4), "policy_logprob": (np.float32, 4),
        "entropy": (np.float32, 4), "version": (np.int32, 4),
    }  # fmt: skip
    assert np.isnan(columns["entropy"]).all()
    assert columns["version"].tolist() == [7] * 4


# ---- batch invariance: the sampler is the trainer ----


def mixed_requests():
    options = [*ASKED, Sampling(9, 1.0, seed=6, min_p=0.05), Sampling(14, 0.9, seed=7, stop_ids=(5, 6, 7))]
    return [(p, options[i % len(options)]) for i, p in enumerate(many_prompts(21))]


def numbers(completion):
    c = completion
    return c.token_ids, c.sampler_logprob, c.policy_logprob, c.entropy, c.top, c.finish


@pytest.mark.parametrize("name", ["decoder", "windowed"])
def test_a_request_gets_the_same_bits_whatever_is_sampled_beside_it(name, request):
    model = request.getfixturevalue(name)
    asked = mixed_requests()

    def ask(order, slots, prefill=2048):
        engine = Engine(model, slots=slots, prefill_tokens=prefill, batch_invariant=True)
        rows = {i: engine.submit(*asked[i]) for i in order}
        engine.run()
        return [numbers(rows[i]) for i in sorted(rows)]

    straight = ask(range(21), 64)
    assert ask(range(21), 4) == straight
    assert ask(reversed(range(21)), 7, 20) == straight
    alone = [ask([i], 1)[0] for i in range(0, 21, 4)]
    assert alone == straight[::4]


@pytest.mark.parametrize("name", ["decoder", "windowed"])
def test_the_trainer_recomputes_the_samplers_log_probs_to_the_bit(name, request, monkeypatch):
    """Packed documents, one at a time, and as a trunk with branches; at several temperatures."""
    model = request.getfixturevalue(name)
    engine = Engine(model, slots=5, batch_invariant=True)
    groups = []
    for temperature in (1.0, 0.6, 1.4):
        groups += engine.generate(many_prompts(4), Sampling(14, temperature, seed=3), n=3)
    monkeypatch.setattr(model, "batch_invariant", True)
    for group in groups:
        temperature = group[0].sampling.temperature
        sampler = [c.sampler_logprob for c in group]
        assert scored(model, group, temperature=temperature) == sampler
        assert scored(model, group) == [c.policy_logprob for c in group]
        assert [scored(model, [c], temperature=temperature)[0] for c in group] == sampler
        assert scored(model, group, groups=[3], temperature=temperature) == sampler
        assert all(len(c.token_ids) == 14 for c in group)
    one_temperature = [c for group in groups[:4] for c in group]
    expected = [c.sampler_logprob for c in one_temperature]
    assert scored(model, one_temperature) == expected
    assert scored(model, one_temperature, groups=[3] * 4) == expected


def test_an_adapter_keeps_the_sampler_the_trainer_to_the_bit(changing, monkeypatch):
    adapted(changing)
    engine = Engine(changing, slots=5, batch_invariant=True)
    groups = engine.generate(prompts(), Sampling(12, seed=3), n=3)
    flat = [c for group in groups for c in group]
    monkeypatch.setattr(changing, "batch_invariant", True)
    assert scored(changing, flat, groups=[3] * len(groups)) == [c.sampler_logprob for c in flat]


def test_the_gap_of_ordinary_batches_is_small_in_float32_and_reported_in_bfloat16(changing, capsys):
    def gap(model):
        groups = Engine(model, slots=5).generate(prompts(), Sampling(20, seed=3), n=4)
        flat = [c for group in groups for c in group]
        pairs = zip(
            scored(model, flat, groups=[4] * len(groups)), [c.policy_logprob for c in flat], strict=True
        )
        gaps = torch.tensor([a - b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)])
        return gaps.abs().mean().item(), gaps.abs().max().item(), gaps.mean().item()

    mean, largest, _ = gap(changing)
    assert largest < 1e-4
    mean, largest, bias = gap(changing.bfloat16())
    with capsys.disabled():
        print(f"\nbfloat16 sampler against trainer: mean {mean:.1e}, largest {largest:.1e}, bias {bias:+.1e}")
    assert mean < 0.05 and largest < 0.8 and abs(bias) < 0.01


def test_a_model_that_cannot_be_invariant_is_refused(tmp_path):
    with pytest.raises(UserError, match="mixture of experts"):
        Engine(tiny(tmp_path, "olmoe"), batch_invariant=True)


# ---- weights that change ----


def perturb(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.05)


@pytest.mark.parametrize("invariant", [False, True])
def test_new_weights_in_mid_answer_go_on_from_the_tokens_so_far(invariant, changing, monkeypatch):
    """Three versions. Each token's log-prob is that of its own version given all tokens before it."""
    engine = Engine(changing, slots=4, batch_invariant=invariant, version=10, digest="a")
    asked = prompts()
    rows = [engine.submit(p, Sampling(12, seed=i)) for i, p in enumerate(asked)]
    rows += [engine.submit(asked[0], Sampling(12, seed=9))]
    scores = []
    for version, digest in ((11, "b"), (12, "c")):
        for _ in range(5):
            engine.step()
        before = [len(row.token_ids) for row in rows]
        monkeypatch.setattr(changing, "batch_invariant", invariant)
        scores.append(
            (before, [scored(changing, [row])[0] if n else [] for row, n in zip(rows, before, strict=True)])
        )
        monkeypatch.setattr(changing, "batch_invariant", False)
        perturb(changing, version)
        engine.refresh(version, digest)
    early = [(list(row.token_ids), row.finish) for row in rows]
    engine.run()
    monkeypatch.setattr(changing, "batch_invariant", invariant)
    last = [scored(changing, [row])[0] for row in rows]
    tolerance = 0 if invariant else 1e-4
    for i, row in enumerate(rows):
        first, second = (before[i] for before, _ in scores)
        assert row.token_ids[: len(early[i][0])] == early[i][0], "what was said stays said"
        assert row.version == [10] * first + [11] * (second - first) + [12] * (12 - second)
        expected = [*scores[0][1][i], *scores[1][1][i][first:], *last[i][second:]]
        assert row.policy_logprob == pytest.approx(expected, abs=tolerance, rel=0)
        assert row.digest == {10: "a", 11: "b", 12: "c"}[row.version[-1]]
    assert {len(set(row.version)) for row in rows} >= {1, 3}, "some were whole before, some saw all three"


def test_rows_in_flight_go_on_in_their_order_before_those_that_wait(decoder):
    engine = Engine(decoder, slots=3)
    rows = [engine.submit(p, GREEDY) for p in prompts()]
    engine.step()
    engine.refresh(1)
    engine.step()
    assert [id(row) for row in engine.rows] == [id(row) for row in rows[:3]]
    assert [id(row) for row in engine.waiting] == [id(row) for row in rows[3:]]


def test_nothing_of_the_old_weights_is_used_after_a_refresh(changing, monkeypatch):
    engine = Engine(changing, slots=4)
    engine.generate(prompts(), GREEDY)
    perturb(changing, 1)
    engine.refresh(1)
    seen = count_tokens(changing, monkeypatch)
    again = texts(engine.generate(prompts(), GREEDY))
    assert sum(seen) == sum(map(len, prompts())) + len(prompts()) * (COUNT - 1)
    assert again == texts(Engine(changing).generate(prompts(), GREEDY))


def test_packed_copies_follow_a_refresh_and_leave_with_sleep(changing):
    """In bfloat16 linear layers keep a packed copy: new weights must reach it, sleep must drop it."""
    changing.bfloat16()
    engine = Engine(changing, slots=4)
    engine.generate(prompts(), GREEDY)
    copies = [m for m in changing.modules() if getattr(m, "packed", None) is not None]
    if not torch.backends.mkldnn.is_available():
        pytest.skip("no packed products here")
    assert copies and changing.packed_head is not None
    with torch.no_grad():
        for parameter in changing.parameters():
            parameter.neg_()
    engine.refresh(1)
    assert not any(getattr(m, "packed", None) is not None for m in changing.modules())
    assert changing.packed_head is None
    assert texts(engine.generate(prompts(), GREEDY)) == texts(Engine(changing).generate(prompts(), GREEDY))
    engine.sleep()
    assert not any(getattr(m, "packed", None) is not None for m in changing.modules())
    assert changing.packed_head is None


def test_an_aborted_request_keeps_its_words_and_frees_its_slot(decoder):
    engine = Engine(decoder, slots=2, digest="d")
    asked = prompts()[:4]
    expected = texts(Engine(decoder).generate(asked, GREEDY))
    rows = [engine.submit(p, GREEDY) for p in asked]
    for _ in range(3):
        engine.step()
    engine.abort(rows[0])
    engine.abort(rows[3])
    engine.abort(rows[3])
    engine.run()
    assert [row.finish for row in rows] == ["abort", "length", "length", "abort"]
    assert rows[0].token_ids == expected[0][:3] and rows[3].token_ids == []
    assert (rows[0].digest, len(rows[0].policy_logprob)) == ("d", 3)
    assert [rows[1].token_ids, rows[2].token_ids] == expected[1:3]


def test_a_step_that_breaks_leaves_an_engine_that_can_go_on(decoder, monkeypatch):
    """Interrupted in mid-forward, with rows that had just joined."""
    expected = texts(Engine(decoder).generate(prompts(), GREEDY))
    engine = Engine(decoder, slots=3)
    rows = [engine.submit(p, GREEDY) for p in prompts()]
    engine.step()
    real, calls = decoder.model.layers[2].forward, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) % 5 == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(decoder.model.layers[2], "forward", interrupted)
    broken = 0
    while engine.busy:
        try:
            engine.step()
        except KeyboardInterrupt:
            broken += 1
    assert broken > 5
    assert [row.token_ids for row in rows] == expected
    with pytest.raises(KeyboardInterrupt):
        engine.generate(prompts(), GREEDY)
    assert not engine.busy, "nobody waits for the answers of an interrupted call"


# ---- what was computed is not computed again ----


def test_the_next_turn_computes_only_its_own_tokens(decoder, monkeypatch):
    engine = Engine(decoder, slots=4)
    talk, plain = prompts()[2], []
    seen = count_tokens(decoder, monkeypatch)
    for turn in range(3):
        [[answer]] = engine.generate([talk], Sampling(6, seed=turn))
        plain.append((talk, answer.token_ids))
        seen.append(-1)
        talk = [*talk, *answer.token_ids, *tokens(5, turn).tolist()]
    # The newest token of an answer was never read: the next turn reads it and the five after it.
    assert seen == [30, 1, 1, 1, 1, 1, -1, 6, 1, 1, 1, 1, 1, -1, 6, 1, 1, 1, 1, 1, -1]
    for turn, (prompt, answer) in enumerate(plain):
        assert texts(Engine(decoder).generate([prompt], Sampling(6, seed=turn))) == [answer]


def test_a_cached_beginning_changes_no_number(pair):
    """Prompts that begin like what other rows held, among them rows still being sampled."""
    _, ours = pair
    engine = Engine(ours, slots=3)
    engine.generate(prompts(), GREEDY)
    asked = many_prompts(12)
    warm, cold = (
        e.generate(asked, Sampling(8, seed=2), n=2) for e in (engine, Engine(ours, slots=64))
    )  # fmt: skip
    for one, other in zip(warm, cold, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.token_ids == b.token_ids
            assert a.policy_logprob == pytest.approx(b.policy_logprob, abs=1e-3)


@pytest.mark.parametrize("slots", [2, 5, 64])
def test_a_group_computes_its_prompt_once(slots, decoder, monkeypatch):
    """Also those samples that had to wait: their prompt, but for its last token, still stands in a slot."""
    seen = count_tokens(decoder, monkeypatch)
    asked = prompts()[2]
    Engine(decoder, slots=slots).generate([asked], Sampling(4, seed=1), n=8)
    fresh = {2: 30 + 3, 5: 30 + 1, 64: 30}[slots]  # one more token for each wave that joins later
    assert sum(seen) == fresh + 8 * 3


def test_a_prompt_that_is_being_answered_serves_others_that_begin_alike(decoder, monkeypatch):
    engine = Engine(decoder, slots=4)
    trunk = prompts()[2]
    engine.submit(trunk, GREEDY)
    engine.step()
    seen = count_tokens(decoder, monkeypatch)
    later = engine.submit([*trunk, 5, 6], Sampling(2, 0))
    engine.step()
    assert seen == [1 + 2]
    engine.run()
    assert [later.token_ids] == texts(Engine(decoder).generate([[*trunk, 5, 6]], Sampling(2, 0)))


# ---- stop strings, adapters, modes, refusals ----


class Bytes:
    """A tokenizer of single bytes: characters span tokens, stop strings too."""

    def decode(self, ids, **_):
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("said", "stops", "length"),
    [
        ("one two three", ("two",), 7),
        ("one two three", ("xyz", "e t", "one t"), 5),
        ("one two three", ("xyz",), 13),
        ("stop 🛑🛑🛑🛑🛑 now", ("🛑🛑🛑🛑🛑",), 25),
        ("aaaa", ("aa",), 2),
        ("<|end|>", ("<|end|>",), 7),
    ],
)
def test_a_stop_string_ends_with_the_token_that_completes_it(said, stops, length, decoder, monkeypatch):
    from rung.rollouts import engine as module

    words = list(said.encode())
    real = module.draw

    def scripted(logits, dials):
        drawn = real(logits, dials)
        return drawn._replace(tokens_B=torch.tensor([words[len(row.token_ids)] for row in dials.rows]))

    monkeypatch.setattr(module, "draw", scripted)
    engine = Engine(decoder, tokenizer=Bytes())
    monkeypatch.setattr(decoder, "forward", always_the_same(decoder))
    [[row]] = engine.generate([[5]], Sampling(len(words), stop_strings=stops))
    assert bytes(row.token_ids) == said.encode()[:length]
    assert row.finish == ("stop" if length < len(words) or said.endswith(stops) else "length")


def always_the_same(model):
    """A forward that takes any id, since bytes go beyond the tiny vocabulary."""
    real = model.forward
    return lambda ids, *rest: real(ids.clamp_max(VOCABULARY - 1), *rest)


def adapted(model, dropout=0.0):
    add_adapter(model, Lora(rank=4, dropout=dropout))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def test_an_adapted_model_samples_with_its_adapter_and_without_dropout(changing):
    plain = texts(Engine(changing).generate(prompts(), GREEDY))
    adapted(changing, dropout=0.5).train()
    engine = Engine(changing, slots=3)
    with_adapter = engine.generate(prompts(), GREEDY)
    assert texts(with_adapter) != plain
    assert changing.training, "left as it was"
    changing.eval()
    for [row] in with_adapter:
        ids = torch.tensor([*row.prompt_ids, *row.token_ids])
        with torch.no_grad():
            best = changing.logits(packed(changing, [ids])).argmax(-1)
        assert best[len(row.prompt_ids) - 1 : -1].tolist() == row.token_ids


def test_sampling_leaves_no_gradient_and_the_mode_it_found(decoder):
    for training in (True, False):
        decoder.train(training)
        Engine(decoder).generate(prompts(), GREEDY)
        assert decoder.training is training
        words = Engine(decoder, batch_invariant=True).stream(prompts()[0], GREEDY)
        next(words)
        assert (decoder.training, decoder.batch_invariant) == (training, False)
        words.close()
        assert torch.is_grad_enabled()
    decoder.eval()
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_nothing_asked_nothing_said(decoder):
    assert Engine(decoder).generate([], GREEDY) == []
    assert Engine(decoder).step() == []


def test_no_stop_id_before_the_minimum_length(decoder):
    every = tuple(range(VOCABULARY // 2))
    groups = Engine(decoder).generate(prompts(), Sampling(12, min_tokens=5, stop_ids=(*every, 10**6)), n=8)
    lengths = {len(row.token_ids) for group in groups for row in group}
    assert min(lengths) > 5 or all(
        len(row.token_ids) == 6 or row.token_ids[5] not in every for group in groups for row in group
    )
    for row in (row for group in groups for row in group):
        assert not set(row.token_ids[:5]) & set(every)
    assert len(lengths) > 1
    Engine(decoder).generate([[5]], Sampling(4, min_tokens=2))  # nothing to forbid


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
        ([[5]], Sampling(top_k=-1), "top-k -1"),
        ([[5]], Sampling(min_p=1.5), "min-p 1.5"),
        ([[5]], Sampling(repetition_penalty=0), "penalty of 0"),
        ([[5]], Sampling(8, min_tokens=9), "min_tokens 9"),
        ([[5]], Sampling(logit_bias=((VOCABULARY, 1.0),)), f"names token {VOCABULARY}"),
        ([[5]], Sampling(top_logprobs=VOCABULARY + 1), f"top_logprobs {VOCABULARY + 1}"),
        ([[5]], Sampling(stop_strings=("a", "")), "stop string is empty"),
        ([[5]], Sampling(8, stop_strings=("a",)), "tokenizer"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_refused_before_anything_is(asked, sampling, message, decoder):
    engine = Engine(decoder)
    with pytest.raises(UserError, match=message):
        engine.generate(asked, sampling)
    with pytest.raises(UserError, match=message):
        next(engine.stream(asked[-1], sampling)) if len(asked) == 1 else engine.generate(asked, sampling)
    assert not engine.busy


def test_the_context_can_be_filled_to_the_last_token(decoder):
    [[answer]] = Engine(decoder).generate([[5] * (CONTEXT - COUNT)], GREEDY)
    assert len(answer.token_ids) == COUNT
