"""Keys and values in pages: who owns which page, and an engine on them word for word with transformers."""

import numpy as np
import pytest
import torch
from decoder_case import opened, reference, tokens
from engine_case import greedy_by_transformers, many_prompts, prompts, texts, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import rung.rollouts.pages as pages
from rung.errors import UserError
from rung.rollouts.cache import Segment
from rung.rollouts.engine import Engine
from rung.rollouts.graphs import DecodeGraphs, can_record
from rung.rollouts.pages import SPARE, PagedCache
from rung.rollouts.request import Sampling

SLOTS = 4
CASES = ["llama", "qwen2 window", "gemma2 hard caps", "qwen3_moe"]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    """Rows of a few dozen tokens take several."""
    monkeypatch.setattr(pages, "PAGE", 4)


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    theirs = reference(request.param)
    return theirs, opened(theirs, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("llama"))


def unrecorded(model, **options) -> Engine:
    return Engine(model, paged=True, **options)


def recorded(model, **options) -> Engine:
    """An engine that decodes through recorded steps, of which recording is only remembering."""
    engine = Engine(model, paged=True, **options)
    make, engine.made = engine._empty_cache, []

    def empty_cache():
        make()
        engine.graphs = DecodeGraphs(model, engine.cache, capture=lambda body: body)
        engine.made.append(engine.graphs)

    engine._empty_cache = empty_cache
    empty_cache()
    return engine


# ---- who owns what ----


def ids(*values):
    return np.array(values, np.int32)


def accounts(cache):
    """Every page is used by as many slots as it says, and those that nobody uses are free, each once."""
    used = [page for table in cache.tables for page in table]
    assert SPARE not in used and SPARE not in cache.free
    assert [cache.users[page] for page in range(len(cache.users)) if page != SPARE] == [
        used.count(page) for page in range(len(cache.users)) if page != SPARE
    ]
    assert sorted([*set(used), *cache.free]) == [p for p in range(len(cache.users)) if p != SPARE]
    assert len(cache.keys[0]) == len(cache.values[-1]) == len(cache.users)


def row_of(cache, slot, layer=0):
    """What a slot's pages hold, as numbers: one for each token."""
    if not cache.tables[slot]:
        return []
    return cache.keys[layer][cache.tables[slot], 0, :, 0].flatten().tolist()


copies = st.tuples(st.just("copy"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
swaps = st.tuples(st.just("swap"), st.integers(0, 3), st.integers(0, 3))
writes = st.tuples(st.just("write"), st.integers(0, 3), st.integers(1, 11))


@given(st.lists(st.one_of(copies, swaps, writes), max_size=25))
@settings(max_examples=150, deadline=None)
def test_each_slot_holds_its_own_row_whatever_is_shared(decoder, acts):
    """Against slots that are plain lists of numbers, no two tokens alike."""
    cache, rows, next_token = PagedCache(decoder, SLOTS), [[] for _ in range(SLOTS)], 1
    for act, first, *more in acts:
        if act == "copy":
            second, tokens_shared = more[0], min(more[1], len(rows[first]))
            cache.copy(first, second, tokens_shared)
            rows[second] = rows[first][:tokens_shared]
        elif act == "swap":
            cache.swap(first, more[0], 99)
            rows[first], rows[more[0]] = rows[more[0]], rows[first]
        else:
            start = len(rows[first])
            fresh = list(range(next_token, next_token + more[0]))
            next_token += more[0]
            cache.make_writable([Segment(first, start, start + len(fresh))])
            page_N, offset_N = cache._places([Segment(first, start, start + len(fresh))])
            for pool, sign in [*((x, 1) for x in cache.keys), *((x, -1) for x in cache.values)]:
                pool[page_N, :, offset_N] = sign * torch.tensor(fresh, dtype=pool.dtype)[:, None, None]
            rows[first] = rows[first] + fresh
            cache.held[first] = np.array(rows[first], np.int32)
        accounts(cache)
        for slot, row in enumerate(rows):
            assert cache.held[slot].tolist() == row
            for layer in range(len(cache.keys)):
                assert row_of(cache, slot, layer)[: len(row)] == row
            assert -(-len(row) // pages.PAGE) == len(cache.tables[slot])
    assert torch.equal(torch.stack(cache.keys), -torch.stack(cache.values))


def test_a_group_keeps_its_prompt_once(decoder):
    """22 tokens and 5 more of each of three rows, pages of 4: five whole pages shared, then each row its own two."""
    engine = Engine(decoder, slots=3, paged=True)
    prompt = tokens(22, 3).tolist()
    for seed in range(3):
        engine.submit(prompt, Sampling(99, 1.0, seed=seed))
    for _ in range(6):
        engine.step()
    accounts(engine.cache)
    assert len({page for table in engine.cache.tables for page in table}) == 5 + 3 * 2
    assert [engine.cache.users[page] for page in engine.cache.tables[0]] == [3] * 5 + [1, 1]


def test_what_ended_is_forgotten_when_its_slot_is_needed_and_pages_are_used_again(decoder):
    engine = Engine(decoder, slots=2, paged=True)
    for round_of in range(6):
        engine.generate([tokens(20, 2 * round_of + i).tolist() for i in range(2)], Sampling(5, 0))
        accounts(engine.cache)
    # Three times for two rows of six pages, and never again.
    assert len(engine.cache.users) == 1 + 4 + 5 + 10
    engine.sleep()
    assert len(engine.cache.users) == 1


# ---- an engine on pages ----


@pytest.mark.parametrize("make", [unrecorded, recorded])
def test_greedy_is_that_of_transformers_token_for_token(make, pair):
    theirs, ours = pair
    if make is recorded and not can_record(ours):
        return
    expected = [greedy_by_transformers(theirs, prompt) for prompt in prompts()]
    for slots, prefill in ((64, 2048), (3, 40), (1, 1)):
        engine = make(ours, slots=slots, prefill_tokens=prefill)
        assert isinstance(engine.cache, PagedCache)
        assert texts(engine.generate(prompts(), Sampling(16, 0))) == expected
        accounts(engine.cache)


@pytest.mark.parametrize("make", [unrecorded, recorded])
def test_64_ragged_prompts_that_begin_alike_and_turns_that_follow(make, decoder):
    theirs, asked = reference("llama"), many_prompts()
    expected = [greedy_by_transformers(theirs, prompt, count=10) for prompt in asked]
    for slots in (5, 64):
        engine = make(decoder, slots=slots)
        assert texts(engine.generate(asked, Sampling(10, 0))) == expected
        turns = [[*prompt, *answer, 7] for prompt, answer in zip(asked[:9], expected, strict=False)]
        assert texts(engine.generate(turns, Sampling(6, 0))) == [
            greedy_by_transformers(theirs, turn, count=6) for turn in turns
        ]
        accounts(engine.cache)


def test_sampled_tokens_and_log_probs_are_those_of_the_other_cache(decoder):
    asked = [Sampling(12, 1.0, seed=1), Sampling(9, 0.7, seed=2, top_k=20), Sampling(14, 1.2, seed=3)]
    told = []
    for make in (Engine, unrecorded, recorded):
        engine = make(decoder, slots=3)
        rows = [engine.submit(p, asked[i % 3]) for i, p in enumerate(prompts())]
        engine.run()
        told.append(rows)
    for plain, *others in zip(*told, strict=True):
        for other in others:
            assert other.token_ids == plain.token_ids
            assert other.policy_logprob == pytest.approx(plain.policy_logprob, abs=1e-5)
            assert other.sampler_logprob == pytest.approx(plain.sampler_logprob, abs=1e-5)


def test_new_weights_in_mid_answer_reach_recorded_steps(tmp_path):
    model = tiny(tmp_path)
    engines = Engine(model, slots=2), recorded(model, slots=2)
    rows = [[engine.submit(p, Sampling(12, 0)) for p in prompts()[:2]] for engine in engines]
    for _ in range(5):
        for engine in engines:
            engine.step()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-2)
    for engine in engines:
        engine.refresh(1, "new")
        engine.run()
    assert [row.token_ids for row in rows[1]] == [row.token_ids for row in rows[0]]
    assert len(engines[1].made) > 1, "what was recorded went with the pages"


def test_steps_are_recorded_for_powers_of_two_and_filling_rows_write_to_nobodys_page(decoder):
    engine = recorded(decoder, slots=8)
    lengths = [12, 12, 12, 12, 13, 14, 15, 16]
    rows = [engine.submit(tokens(5, i).tolist(), Sampling(n, 0)) for i, n in enumerate(lengths)]
    before = engine.cache.keys[0][SPARE].clone()
    engine.run()
    assert all(row.finish for row in rows)
    # 5 tokens and the next are two pages of 4; up to 21 tokens are six pages, for which eight are recorded.
    widths = {2, 4, 8}
    assert set(engine.graphs.steps) <= {(r, w) for r in (1, 2, 4, 8) for w in widths}
    # Eight rows have ended before the pool grows for the last time.
    assert {rows for rows, _ in engine.graphs.steps} == {1, 2, 4}
    assert not torch.equal(engine.cache.keys[0][SPARE], before), "three rows in a step of four"
    accounts(engine.cache)


def test_a_pool_that_grows_is_recorded_anew(decoder):
    engine = recorded(decoder, slots=1)
    engine.generate([tokens(3, 1).tolist()], Sampling(30, 0))
    assert len(engine.cache.users) > 3
    assert all(width == 8 for _, width in engine.graphs.steps), "older widths belonged to smaller pools"


def test_pages_and_batch_invariance_exclude_each_other_and_are_the_gpus_default(decoder):
    assert not Engine(decoder).paged
    with pytest.raises(UserError, match="depends on the batch"):
        Engine(decoder, paged=True, batch_invariant=True)


@pytest.mark.cuda
def test_on_a_gpu_recorded_steps_say_what_unrecorded_ones_say(tmp_path):
    model = tiny(tmp_path).to("cuda")
    theirs = reference("llama")
    expected = [greedy_by_transformers(theirs, prompt, count=10) for prompt in many_prompts()]
    recording, plain = Engine(model), Engine(model)
    assert recording.paged and recording.graphs is not None
    plain.graphs = None
    for engine in (recording, plain):
        assert texts(engine.generate(many_prompts(), Sampling(10, 0))) == expected
    assert recording.graphs.steps
