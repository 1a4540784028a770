"""Sampling through transformers: its own cache, whatever kind that is; the engine's independent twin."""

import json

import pytest
import torch
from decoder_case import SIZES, VOCABULARY, opened, reference
from engine_case import cut, greedy_by_transformers, prompts, texts
from transformers import AutoConfig, AutoModelForCausalLM

from rung.errors import UserError
from rung.models.fallback import TransformersDecoder
from rung.models.load import load_model
from rung.models.lora import add_adapter, save_adapter
from rung.rollouts.engine import Engine
from rung.rollouts.hf import HfSampler, open_with_transformers, sampler_for
from rung.rollouts.request import Sampling
from rung.settings import Lora

SMALL = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, bos_token_id=1, eos_token_id=2)
FAMILIES = {
    "learned positions": ("gpt2", dict(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=2)),
    "parallel layers": ("gpt_neox", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "a bias on the head": ("phi", SIZES),
    "logits times a scale": ("cohere", dict(**SIZES, logit_scale=0.3)),
    "logits divided by a scale": ("granite", dict(**SIZES, logits_scaling=8.0, embedding_multiplier=3.0)),
    "experts and a window": ("mixtral", dict(**SIZES, num_local_experts=4, sliding_window=5)),
    "RoPE that changes with length": (
        "llama", dict(**SIZES, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
    ),
    "no attention at all": ("mamba", SMALL),
    "convolutions and attention": ("lfm2", SIZES),
    "a state that mixes rows up": ("rwkv", dict(**SMALL, attention_hidden_size=32, context_length=64)),
}  # fmt: skip


def saved(name, folder):
    family, settings = FAMILIES[name]
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_cache_is_greedy_as_transformers_is(name, tmp_path):
    """One row at a time there, together here; rows stop one by one, samples of a prompt share its forward."""
    theirs = saved(name, tmp_path)
    ours = load_model(tmp_path).train()  # GPT-2 drops out while it trains
    free = [greedy_by_transformers(theirs, prompt, count=8) for prompt in prompts()]
    sampler = sampler_for(ours, slots=5)
    assert isinstance(sampler, HfSampler)
    assert sampler.rows_at_once == (1 if name == "a state that mixes rows up" else 5)
    assert texts(sampler.generate(prompts(), Sampling(8, 0))) == free
    stop_ids = (free[0][2], free[2][5], free[4][1])
    stopped = sampler.generate(prompts(), Sampling(8, 0, stop_ids=stop_ids), n=2)
    assert [[c.token_ids for c in group] for group in stopped] == [[cut(a, stop_ids)] * 2 for a in free]
    assert len({len(c.token_ids) for group in stopped for c in group}) > 1
    assert list(sampler.stream(prompts()[1], Sampling(8, 0))) == free[1]
    assert ours.training


@pytest.fixture(scope="module", params=["llama", "gemma2 hard caps", "olmoe"])
def twins(request, tmp_path_factory):
    """One folder opened by the decoder and by transformers."""
    folder = tmp_path_factory.mktemp("model")
    return opened(reference(request.param), folder), open_with_transformers(folder)


OPTIONS = [
    Sampling(12, 1.0, entropy=True, top_logprobs=3),
    Sampling(12, 0.7, top_p=0.8),
    Sampling(12, 1.3, top_k=12, min_p=0.02),
    Sampling(12, 0.9, repetition_penalty=1.4, logit_bias=((5, 2.0),), min_tokens=6, stop_ids=(5, 6, 7)),
]


@pytest.mark.parametrize("sampling", OPTIONS)
def test_the_same_request_gets_the_same_tokens_and_numbers_from_both(sampling, twins):
    decoder, theirs = twins
    assert isinstance(theirs, TransformersDecoder)
    ours = Engine(decoder, version=4, digest="d").generate(prompts(), sampling, n=2)
    other = HfSampler(theirs, version=4, digest="d").generate(prompts(), sampling, n=2)
    for one, two in zip((c for g in ours for c in g), (c for g in other for c in g), strict=True):
        assert one.token_ids == two.token_ids
        assert (one.finish, one.version, one.digest) == (two.finish, two.version, two.digest)
        assert one.sampling == two.sampling
        for name in ("sampler_logprob", "policy_logprob", "entropy"):
            assert getattr(one, name) == pytest.approx(getattr(two, name), abs=1e-3)
        assert [ids for ids, _ in one.top] == [ids for ids, _ in two.top]


def test_an_adapter_is_opened_on_its_base(tmp_path):
    base = opened(reference("llama"), tmp_path / "base")
    add_adapter(base, Lora(rank=2))
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    save_adapter(base, tmp_path / "adapter", Lora(rank=2), str(tmp_path / "base"), "")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    greedy = Sampling(8, 0)
    adapted = texts(HfSampler(open_with_transformers(tmp_path / "adapter")).generate(prompts(), greedy))
    assert adapted == texts(Engine(base).generate(prompts(), greedy))
    assert adapted != texts(HfSampler(open_with_transformers(tmp_path / "base")).generate(prompts(), greedy))


def test_the_right_sampler_is_picked_and_what_it_cannot_do_refused(twins):
    decoder, theirs = twins
    assert isinstance(sampler_for(decoder), Engine)
    with pytest.raises(UserError, match="no batch invariance"):
        sampler_for(theirs, batch_invariant=True)
    sampler = sampler_for(theirs)
    with pytest.raises(UserError, match="Prompt 2 of 2 is empty"):
        sampler.generate([[5], []], Sampling(4))
    with pytest.raises(UserError, match="tokenizer"):
        sampler.generate([[5]], Sampling(4, stop_strings=("a",)))
    assert sampler.generate([], Sampling(4)) == []


def test_new_weights_are_used_and_named_at_once(twins):
    _, theirs = twins
    sampler = HfSampler(theirs)
    [[before]] = sampler.generate([[5, 6]], Sampling(4, 0))
    real = theirs.head_weight.detach().clone()
    with torch.no_grad():
        theirs.head_weight.copy_(real.roll(1, 0))
    sampler.refresh(3, "new")
    [[after]] = sampler.generate([[5, 6]], Sampling(4, 0))
    with torch.no_grad():
        theirs.head_weight.copy_(real)
    assert before.policy_logprob != pytest.approx(after.policy_logprob, abs=1e-3)
    assert (before.version, after.version, after.digest) == ([0] * 4, [3] * 4, "new")
