"""vLLM itself, where it is installed (make peers): slow, because it takes ten seconds to start."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_case import scored

from rung.models.fingerprint import fingerprint
from rung.models.load import load_model
from rung.rollouts.draw import Dials, _cut, _edited
from rung.rollouts.engine import Engine
from rung.rollouts.request import Completion, Sampling
from rung.rollouts.vllm import VllmSampler
from rung.rollouts.vllm_process import WorkerFailed

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="vLLM is not installed (make peers)"),
]
PROMPTS = [[3, 4, 5, 6], [9], [40, 41, 42] * 9, [3, 4, 5, 6, 7, 8]]


def make_folder(path, tokenizer_folder, tied):
    """Heads of 32, the smallest that vLLM's attention on a CPU has; weights large enough for sharp answers."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=260, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
        pad_token_id=None, tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(path)
    (path / "generation_config.json").write_text(
        '{"repetition_penalty": 1.5, "temperature": 0.3, "top_k": 2}'
    )
    return path


@pytest.fixture(scope="module", params=["tied", "untied"])
def real(request, tiny_folder, tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("vllm"), tiny_folder, request.param == "tied")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("OMP_NUM_THREADS", "1")
        sampler = VllmSampler(
            folder, python=PYTHON, dtype=torch.float32, cache_gb=0.25, eager=True, seconds=300
        )
    with sampler:
        yield sampler, folder


def changed(model, seed, amount=0.1):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * amount)
    return model


def token_ids(answers):
    return [group[0].token_ids for group in answers]


@pytest.fixture
def both(real):
    """The worker and a model of our own with the same weights, as after opening."""
    from transformers import AutoTokenizer

    sampler, folder = real
    model = load_model(folder)
    if sampler.weights_digest != fingerprint(model):
        sampler.push(model, 0)
    return sampler, model, Engine(model, tokenizer=AutoTokenizer.from_pretrained(folder))


@torch.no_grad()
def logits_before(model, row):
    """Of each token of the answer, `[T, V]`."""
    from rung.models.decoder import Documents

    ids = torch.tensor([*row.prompt_ids, *row.token_ids])
    hidden = model(ids, torch.arange(len(ids)), Documents((len(ids),)))
    return model.logits(hidden.states_ND)[len(row.prompt_ids) - 1 : -1]


def drawn_from(model, row):
    """The log-prob of each token under the distribution that our options leave."""
    found, sampling = [], row.sampling
    for place, logits_V in enumerate(logits_before(model, row)):
        so_far = Completion(row.prompt_ids, sampling, token_ids=row.token_ids[:place])
        dials = Dials.of([so_far], logits_V.device)
        scores_BV = _edited(logits_V[None].float(), dials)
        if sampling.temperature == 0:
            assert scores_BV.argmax() == row.token_ids[place]
            found.append(0.0)
            continue
        scores_BV = _cut(scores_BV / sampling.temperature, dials)
        found.append(float(scores_BV.log_softmax(-1)[0, row.token_ids[place]]))
    return found


def test_it_opens_with_the_folders_weights(real):
    sampler, folder = real
    assert sampler.digest == fingerprint(load_model(folder))
    assert (sampler.context, sampler.vocabulary, sampler.eos) == (255, 260, 2)


def test_greedy_is_the_engines_before_and_after_a_push(both):
    """The prompts were answered before: what is cached of them must be forgotten."""
    sampler, model, engine = both
    prompts = [*PROMPTS, [i * 7 % 200 + 5 for i in range(150)]]  # vLLM on a CPU keeps blocks of 128
    greedy, found = Sampling(max_tokens=24, temperature=0), []
    for version in range(3):
        if version:
            sampler.push(changed(model, version), version)
            engine.refresh(version)
        answers = sampler.generate(prompts, greedy)
        assert token_ids(answers) == token_ids(engine.generate(prompts, greedy))
        assert {one.digest for [one] in answers} == {fingerprint(model)}
        found.append(token_ids(answers))
    assert found[0] != found[1] != found[2]


def test_a_small_step_moves_the_log_probs_as_it_moves_ours(both):
    """A part that kept its old weights, the packed head of a tied model, would be off by as much as this."""
    sampler, model, _ = both
    rows = [row for [row] in sampler.generate(PROMPTS, Sampling(max_tokens=30))]
    before = torch.tensor([x for row in scored(model, rows) for x in row])
    sampler.push(changed(model, 3, 0.01), 1)
    after = [row for [row] in sampler.generate(PROMPTS, Sampling(max_tokens=30))]
    ours = scored(model, after)
    worst = max(
        abs(a - b)
        for row, own in zip(after, ours, strict=True)
        for a, b in zip(row.policy_logprob, own, strict=True)
    )
    moved = (torch.tensor([x for row in scored(model, rows) for x in row]) - before).abs().max()
    assert worst < 1e-4 < 0.05 < moved


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6),
        Sampling(temperature=1.5, top_k=20),
        Sampling(top_p=0.7, top_k=30, temperature=0.8),
        Sampling(min_p=0.1, top_k=9, temperature=1.2),
        Sampling(repetition_penalty=1.4),
        Sampling(repetition_penalty=1.4, min_tokens=4, stop_ids=(2, *range(30, 90)), top_p=0.8),
        Sampling(logit_bias=((9, 3.0), (44, -2.0), (9, 1.0)), temperature=0.7),
        Sampling(temperature=0, logit_bias=((9, 3.0),), min_tokens=3, stop_ids=(2, 9)),
    ],
    ids=str,
)
def test_both_log_probs_are_ours(both, sampling):
    """Under our own reading of the options, token by token on vLLM's answers, and under the trainer."""
    sampler, model, _ = both
    asked = replace(sampling, max_tokens=16, top_logprobs=3)
    rows = [row for group in sampler.generate(PROMPTS, asked, n=3) for row in group]
    for row, own in zip(rows, scored(model, rows), strict=True):
        assert row.policy_logprob == pytest.approx(own, abs=1e-4)
        assert row.sampler_logprob == pytest.approx(drawn_from(model, row), abs=1e-4)
    if sampling.min_tokens:
        assert min(len(row.token_ids) for row in rows) >= sampling.min_tokens
    if sampling == Sampling():
        assert len({tuple(row.token_ids) for row in rows}) > 4


def test_the_likeliest_are_the_models_own(both):
    sampler, model, _ = both
    for temperature in (0.0, 0.7):
        asked = Sampling(max_tokens=6, temperature=temperature, top_logprobs=4)
        for [row] in sampler.generate(PROMPTS, asked):
            for place, (ids, logprobs) in enumerate(row.top):
                own = logits_before(model, row)[place].log_softmax(-1).topk(4)
                assert ids == own.indices.tolist()
                assert logprobs == pytest.approx(own.values.tolist(), abs=1e-4)


def test_frequencies_are_those_it_reports(both):
    """4000 first tokens at temperature 1.3 among the 12 likeliest: chi-square with 11 degrees of freedom."""
    sampler, _, _ = both
    asked = Sampling(max_tokens=1, temperature=1.3, top_k=12, seed=8)
    [rows] = sampler.generate([PROMPTS[0]], asked, n=4000)
    reported = {row.token_ids[0]: row.sampler_logprob[0] for row in rows}
    p = torch.tensor(list(reported.values()), dtype=torch.double).exp()
    assert len(p) == 12 and p.sum() == pytest.approx(1, abs=1e-4)
    counts = torch.tensor([sum(row.token_ids[0] == t for row in rows) for t in reported]).double()
    expected = 4000 * p / p.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 35  # p = 0.0002


def test_a_seed_gives_the_same_answer_again_whatever_is_beside_it(both):
    sampler, _, _ = both
    asked = Sampling(max_tokens=12, seed=3)
    first = token_ids(sampler.generate(PROMPTS, asked))
    assert token_ids(sampler.generate(PROMPTS, asked, n=2)) == first
    assert token_ids(sampler.generate(PROMPTS, Sampling(max_tokens=12, seed=4))) != first


def test_answers_end_as_the_engines_do(both):
    sampler, _, engine = both
    whole = token_ids(engine.generate(PROMPTS, Sampling(max_tokens=20, temperature=0)))
    text = engine.tokenizer.decode(whole[0][3:5])
    for sampling in [
        Sampling(max_tokens=20, temperature=0, stop_ids=(whole[0][4], whole[1][0])),
        Sampling(max_tokens=5, temperature=0, stop_ids=(whole[0][4],)),  # the last one it may write
        Sampling(max_tokens=20, temperature=0, stop_strings=(text,)),
        Sampling(max_tokens=5, temperature=0, stop_strings=(text,)),
    ]:
        ours, theirs = engine.generate(PROMPTS, sampling), sampler.generate(PROMPTS, sampling)
        assert [(one.token_ids, one.finish) for [one] in ours] == [
            (one.token_ids, one.finish) for [one] in theirs
        ]
        assert ours[0][0].finish == "stop"


def test_the_longest_answer_fits(both):
    """Its log-probs are looked up with it as the prompt, which must fit with one token more."""
    sampler, model, _ = both
    [[row]] = sampler.generate([PROMPTS[0]], Sampling(max_tokens=251, temperature=0.9))
    assert len(row.token_ids) == 251
    assert row.policy_logprob == pytest.approx(scored(model, [row])[0], abs=1e-3)


def test_aborted_in_any_stage_it_goes_on(both):
    sampler, model, _ = both
    long = [sampler.submit(PROMPTS[0], Sampling(max_tokens=200, temperature=0.9, seed=i)) for i in range(4)]
    ended = sampler.step()
    for one in long:
        sampler.abort(one)
    assert all(one.finish == "abort" for one in long if one not in ended)
    assert token_ids(sampler.generate([[9]], Sampling(max_tokens=2)))
    sampler.push(model, 9)  # which a request left behind would refuse


def test_a_killed_worker_is_told(both):
    """Last: nothing can be asked of it any more."""
    sampler, _, _ = both
    pid = sampler.process.process.pid
    sampler.submit(PROMPTS[0], Sampling(max_tokens=200))
    os.kill(pid, 9)
    with pytest.raises(WorkerFailed, match="SIGKILL"):
        sampler.step()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
