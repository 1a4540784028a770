"""Adapter folders against PEFT itself: it opens ours, we open its, and both compute the same."""

import json

import pytest
import torch
from lora_case import TOKENS, logits, tiny_llama, trained
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from rung.errors import UserError
from rung.models.config import DecoderConfig
from rung.models.decoder import Decoder, Documents
from rung.models.fallback import TransformersDecoder
from rung.models.lora import (
    adapted_layers,
    adapter_tensors,
    add_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from rung.models.peft_format import CONFIG, WEIGHTS, read_adapter
from rung.settings import Lora

SHAPE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=50)


def by_peft(folder, base: nn.Module) -> nn.Module:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder).eval()


@torch.no_grad()
def decoder_logits(model: nn.Module) -> torch.Tensor:
    return model.logits(model(TOKENS[0], torch.arange(12), Documents((12,))).states_ND)


def saved_by_peft(folder, **config) -> torch.Tensor:
    """Make an adapter with PEFT, save it, and return the logits that PEFT gives."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(), LoraConfig(**config)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    return logits(model)


@pytest.mark.parametrize(
    "settings",
    [
        Lora(rank=4, alpha=8),
        Lora(rank=3, alpha=5.5, rank_stabilised=True, dropout=0.1),
        Lora(rank=2, targets=("q_proj", "1.mlp.down_proj")),
    ],
    ids=["plain", "rslora", "targets"],
)
def test_peft_opens_what_we_save_and_agrees_in_outputs_and_gradients(tmp_path, settings):
    ours = tiny_llama()
    base_logits = logits(ours)
    add_adapter(ours, settings)
    trained(ours)
    save_adapter(ours, tmp_path / "adapter", settings, base_name="tiny", base_digest="abc")
    theirs = by_peft(tmp_path / "adapter", tiny_llama())
    assert (logits(ours) - base_logits).abs().max() > 0.05
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-6, rtol=0)

    theirs.base_model.set_adapter("default")  # PEFT loads frozen; this makes it trainable
    for model in (ours, theirs):
        model(TOKENS, labels=TOKENS).loss.backward()
    peft_gradients = {
        name.replace(".default", ""): p.grad for name, p in theirs.named_parameters() if p.grad is not None
    }
    gradients = {name: p.grad for name, p in adapter_tensors(ours).items()}
    assert gradients.keys() == peft_gradients.keys()
    torch.testing.assert_close(gradients, peft_gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        dict(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"]),
        dict(r=4, lora_alpha=6, target_modules=r".*layers\.1\..*(k|down)_proj"),
        dict(r=4, lora_alpha=6, target_modules="all-linear", use_rslora=True),
        dict(
            r=4,
            lora_alpha=6,
            target_modules=["q_proj", "o_proj", "gate_proj"],
            rank_pattern={"q_proj": 2},
            alpha_pattern={"o_proj": 1, r"layers\.0\.mlp\.gate_proj": 20},
        ),
    ],
    ids=["list", "regex", "all-linear rslora", "patterns"],
)
def test_we_open_what_peft_saves(tmp_path, config):
    expected = saved_by_peft(tmp_path, **config)
    model = tiny_llama()
    load_adapter(model, tmp_path)
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=0)
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


def test_a_round_trip_is_bit_identical_and_keeps_its_lineage(tmp_path):
    settings = Lora(rank=2, dropout=0.25)
    model = tiny_llama()
    add_adapter(model, settings)
    trained(model)
    save_adapter(model, tmp_path, settings, base_name="tiny", base_digest="abc")
    loaded = tiny_llama()
    load_adapter(loaded, tmp_path, base_digest="abc")
    assert torch.equal(logits(model), logits(loaded))
    assert {layer.dropout for layer in adapted_layers(loaded).values()} == {0.25}
    adapter = read_adapter(tmp_path)
    assert (adapter.base_name, adapter.base_digest) == ("tiny", "abc")
    assert sorted(file.name for file in tmp_path.iterdir()) == [CONFIG, WEIGHTS]


def test_our_decoder_with_experts_agrees_with_peft_on_transformers(tmp_path):
    # Checkpoints name every expert; transformers stacks them, and PEFT converts our adapter on its way in.
    torch.manual_seed(0)
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, num_key_value_heads=1)
    config = Qwen3MoeConfig(**SHAPE, **experts, head_dim=8, tie_word_embeddings=False)
    theirs = Qwen3MoeForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "base")
    ours = Decoder(DecoderConfig.from_hf(config.to_dict())).eval()
    ours.load_state_dict(load_file(tmp_path / "base" / "model.safetensors"))

    before = decoder_logits(ours)
    add_adapter(ours, Lora(rank=2))
    assert len(adapted_layers(ours)) == 2 * (4 + 4 * 3)  # attention, and three matrices in each expert
    trained(ours)
    assert (decoder_logits(ours) - before).abs().max() > 0.01
    save_adapter(ours, tmp_path / "adapter", Lora(rank=2), base_name="tiny", base_digest="")
    peft_logits = logits(by_peft(tmp_path / "adapter", theirs))[0]
    torch.testing.assert_close(decoder_logits(ours), peft_logits, atol=1e-6, rtol=0)


def test_the_transformers_fallback_keeps_checkpoint_names_and_spares_its_head(tmp_path):
    torch.manual_seed(0)
    config = GPTNeoXConfig(**SHAPE)
    theirs = GPTNeoXForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "base")
    ours = TransformersDecoder(tmp_path / "base", config.to_dict(), torch.float32).eval()
    add_adapter(ours, Lora(rank=2))
    assert "gpt_neox.layers.0.attention.query_key_value" in adapted_layers(ours)
    assert len(adapted_layers(ours)) == 2 * 4  # two in attention, two in the MLP, and not `embed_out`
    trained(ours)
    save_adapter(ours, tmp_path / "adapter", Lora(rank=2), base_name="tiny", base_digest="")
    live = decoder_logits(ours)
    merge_adapter(ours)
    merged = decoder_logits(ours)
    peft_logits = logits(by_peft(tmp_path / "adapter", theirs))[0]
    torch.testing.assert_close(live, peft_logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged, live, atol=1e-6, rtol=0)


def test_merging_agrees_with_peft(tmp_path):
    saved_by_peft(tmp_path, r=4, lora_alpha=6, target_modules="all-linear")
    ours = tiny_llama()
    load_adapter(ours, tmp_path)
    merge_adapter(ours)
    theirs = by_peft(tmp_path, tiny_llama()).merge_and_unload()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-6, rtol=0)


# ---- what users get wrong ----


def test_saving_asks_for_the_settings_it_was_made_with(tmp_path):
    model = tiny_llama()
    with pytest.raises(UserError, match="has none attached"):
        save_adapter(model, tmp_path / "a", Lora(rank=2), "tiny", "")
    add_adapter(model, Lora(rank=4, alpha=8))
    for wrong in (Lora(rank=4, alpha=16), Lora(rank=4, alpha=8, rank_stabilised=True), Lora(rank=2, alpha=4)):
        with pytest.raises(UserError, match="has rank 4 and scale 2, but the settings"):
            save_adapter(model, tmp_path / "a", wrong, "tiny", "")
    assert not (tmp_path / "a").exists()


def test_an_adapter_of_another_base(tmp_path):
    saved_by_peft(tmp_path, r=2, target_modules=["down_proj", "q_proj"])
    narrow = LlamaForCausalLM(LlamaConfig(**{**tiny_llama().config.to_dict(), "intermediate_size": 20}))
    shallow = LlamaForCausalLM(LlamaConfig(**{**tiny_llama().config.to_dict(), "num_hidden_layers": 1}))
    for model, message in (
        (narrow, "down_proj as a 16 x 24 matrix, and this model has 16 x 20 there"),
        (shallow, r"corrects model\.layers\.1\..*, which is not an adaptable layer of this model"),
    ):
        with pytest.raises(UserError, match=message):
            load_adapter(model, tmp_path)
        assert not adapted_layers(model) and all(p.requires_grad for p in model.parameters())


def test_an_adapter_of_the_same_shape_but_other_weights(tmp_path):
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    save_adapter(model, tmp_path, Lora(rank=2), base_name="tiny", base_digest="abc")
    with pytest.raises(UserError, match="trained on tiny, digest abc, and this base has digest def"):
        load_adapter(tiny_llama(), tmp_path, base_digest="def")


def spoil(folder, kind: str) -> None:
    config, weights = folder / CONFIG, folder / WEIGHTS
    if kind == "no config":
        config.unlink()
    elif kind == "broken config":
        config.write_text("{")
    elif kind == "cut short":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif kind == "only pickled":
        weights.rename(folder / "adapter_model.bin")
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | json.loads(kind)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no config", "it has no adapter_config.json"),
        ("broken config", "is not valid JSON"),
        ("cut short", "damaged or cut short"),
        ("only pickled", "pickled code, which is never read"),
        ('{"peft_type": "IA3"}', "an adapter of type IA3"),
        ('{"use_dora": true}', "sets use_dora"),
        ('{"modules_to_save": ["lm_head"]}', "sets modules_to_save"),
        ('{"init_lora_weights": "pissa_niter_4"}', "initialised by 'pissa_niter_4'"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, kind, message):
    saved_by_peft(tmp_path, r=2, target_modules=["q_proj"])
    spoil(tmp_path, kind)
    model = tiny_llama()
    with pytest.raises(UserError, match=message):
        load_adapter(model, tmp_path)
    assert not adapted_layers(model)


def test_tensors_beyond_plain_lora_are_refused(tmp_path):
    saved_by_peft(tmp_path, r=2, target_modules=["q_proj"], use_dora=True)
    spoil(tmp_path, '{"use_dora": false}')  # even when the config keeps silent
    with pytest.raises(UserError, match="lora_magnitude_vector, which is not part of a plain LoRA"):
        load_adapter(tiny_llama(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.popitem(), r"A and B of one rank are needed"),
        (
            lambda tensors: tensors.update({name: t[:1] for name, t in tensors.items()}),
            "lora_A .1, 16., lora_B",
        ),
        (lambda tensors: tensors.clear(), "holds no tensors"),
    ],
    ids=["half missing", "ranks differ", "empty"],
)
def test_tensors_that_do_not_fit_together(tmp_path, change, message):
    saved_by_peft(tmp_path, r=2, target_modules=["q_proj"])
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=message):
        load_adapter(tiny_llama(), tmp_path)


def test_a_save_that_fails_leaves_no_adapter(tmp_path, monkeypatch):
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    save_adapter(model, tmp_path, Lora(rank=2), "tiny", "")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(trained(model), tmp_path, Lora(rank=2), "tiny", "")
    assert [file.name for file in tmp_path.iterdir()] == [WEIGHTS]


def test_loading_over_an_adapter_is_refused(tmp_path):
    saved_by_peft(tmp_path, r=2, target_modules=["q_proj"])
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    with pytest.raises(UserError, match="already carries an adapter"):
        load_adapter(model, tmp_path)
