"""LoRA against PEFT on a tiny Llama, against numbers worked out by hand, and against its own promises."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rung.errors import UserError
from rung.models.lora import (
    LoraLinear,
    adapted_layers,
    adapter_tensors,
    add_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
    target_layers,
)
from rung.models.peft_format import CONFIG, WEIGHTS, Correction, read_adapter
from rung.settings import Lora

TOKENS = torch.arange(24).reshape(2, 12) % 50
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def trained(model: nn.Module, seed: int = 1) -> nn.Module:
    """Random adapter weights of a size that moves the logits by about as much as the base itself has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            for tensor in (layer.lora_A, layer.lora_B):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def by_peft(folder, base: nn.Module) -> nn.Module:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder).eval()


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


# ---- the arithmetic ----


def test_two_by_two_by_hand():
    # W = [[1, 2], [3, 4]], A = [[1, -1]], B = [[2], [1]], scale 0.5: W + 0.5 B A = [[2, 1], [3.5, 3.5]].
    base = nn.Linear(2, 2)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        base.bias.copy_(torch.tensor([10.0, 20.0]))
    correction = Correction(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [1.0]]), 0.5)
    layer = LoraLinear(base, correction, dropout=0.0)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
    # The first two rows read off the columns of the merged matrix; [1, 2] gives 2 + 2 and 3.5 + 7.
    expected = torch.tensor([[12.0, 23.5], [11.0, 23.5], [14.0, 30.5]])
    assert torch.equal(layer(x), expected)
    model = nn.Sequential(layer)
    merge_adapter(model)
    assert torch.equal(model[0].weight, torch.tensor([[2.0, 1.0], [3.5, 3.5]]))
    assert type(model[0]) is nn.Linear and torch.equal(model(x), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_in_float64(bias):
    torch.manual_seed(0)
    base = nn.Linear(4, 3, bias=bias).double().requires_grad_(False)
    layer = LoraLinear(base, Correction(torch.randn(2, 4), torch.randn(3, 2), 1.7), dropout=0.0)
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)

    def run(x, lora_A, lora_B):
        return torch.func.functional_call(layer, {"lora_A": lora_A, "lora_B": lora_B}, (x,))

    assert torch.autograd.gradcheck(run, (x, layer.lora_A, layer.lora_B))
    plain = F.linear(x, base.weight + 1.7 * layer.lora_B @ layer.lora_A, base.bias)
    torch.testing.assert_close(layer(x), plain, rtol=1e-12, atol=1e-12)
    assert base.weight.grad is None


@pytest.mark.parametrize(
    ("rank", "alpha", "rank_stabilised", "scale"), [(4, 8, False, 2.0), (4, 8, True, 4.0)]
)
def test_scale_of_both_kinds(rank, alpha, rank_stabilised, scale):
    model = tiny_llama()
    add_adapter(model, Lora(rank=rank, alpha=alpha, rank_stabilised=rank_stabilised))
    assert {layer.scale for layer in adapted_layers(model).values()} == {scale}


# ---- attaching ----


def test_default_targets_are_every_linear_layer_but_the_head_and_only_they_train():
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    expected = {f"model.layers.{i}.self_attn.{n}" for i in (0, 1) for n in LINEAR[:4]}
    expected |= {f"model.layers.{i}.mlp.{n}" for i in (0, 1) for n in LINEAR[4:]}
    assert set(adapted_layers(model)) == expected
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{layer}.lora_{part}" for layer in expected for part in "AB"}


def test_routers_and_heads_are_left_alone():
    model = nn.ModuleDict({"mlp": nn.ModuleDict({"gate": nn.Linear(4, 8), "up_proj": nn.Linear(4, 4)})})
    model["score"] = nn.Linear(4, 1)
    assert list(target_layers(model, ())) == ["mlp.up_proj"]


def test_targets_match_whole_last_parts():
    model = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "xq_proj": nn.Linear(2, 2)})
    assert list(target_layers(model, ("q_proj",))) == ["q_proj"]
    model = tiny_llama()
    assert list(target_layers(model, ("1.mlp.up_proj",))) == ["model.layers.1.mlp.up_proj"]


def test_start_is_as_torch_and_peft_begin_and_follows_the_seed():
    first, again, other = (nn.Sequential(nn.Linear(400, 300)) for _ in range(3))
    add_adapter(first, Lora(rank=8), seed=5)
    torch.rand(3)  # the global generator has no say
    add_adapter(again, Lora(rank=8), seed=5)
    add_adapter(other, Lora(rank=8), seed=6)
    lora_A_RD = first[0].lora_A
    assert torch.equal(lora_A_RD, again[0].lora_A) and not torch.equal(lora_A_RD, other[0].lora_A)
    # Uniform within 1/sqrt(400) = 0.05: the variance is 0.05^2 / 3.
    assert 0.0495 < lora_A_RD.abs().max() <= 0.05
    assert math.isclose(lora_A_RD.var().item(), 0.05**2 / 3, rel_tol=0.1)
    assert not first[0].lora_B.any()


def test_layers_start_from_different_draws():
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    layers = adapted_layers(model)
    a, b = (layers[f"model.layers.{i}.self_attn.q_proj"].lora_A for i in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_step_sees_the_base_exactly(dtype):
    model = tiny_llama().to(dtype)
    before = logits(model)
    add_adapter(model, Lora(rank=4, dropout=0.5))
    assert all(p.dtype == dtype for p in model.parameters())
    assert torch.equal(logits(model.train()), before)


def test_dropout_acts_in_training_only_and_on_the_correction_only():
    model = tiny_llama()  # in eval mode, and attaching must not switch it
    add_adapter(model, Lora(rank=4, dropout=0.5))
    trained(model)
    assert torch.equal(logits(model), logits(model))
    assert not torch.equal(logits(model.train()), logits(model))
    # Its mean over many draws is the output without it, and at dropout 0.5 a kept input counts double.
    layer = adapted_layers(model)["model.layers.0.self_attn.q_proj"]
    x = torch.randn(1, 16).expand(20_000, 16)
    with torch.no_grad():
        mean, sure = layer(x).mean(0), layer.eval()(x[:1])[0]
    torch.testing.assert_close(mean, sure, atol=0.05, rtol=0)


def test_rank_zero_changes_nothing():
    model = tiny_llama()
    add_adapter(model, Lora(rank=0))
    assert not adapted_layers(model) and all(p.requires_grad for p in model.parameters())


def test_an_adapter_learns_and_the_base_does_not_move():
    model = tiny_llama()
    frozen = {name: p.clone() for name, p in model.named_parameters()}
    add_adapter(model, Lora(rank=4))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(5):
        loss = model(TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    merged_names = {name.replace(".base.", "."): p for name, p in model.named_parameters()}
    assert all(torch.equal(merged_names[name], value) for name, value in frozen.items())


# ---- PEFT as an independent oracle ----


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


# ---- merging ----


def test_merging_keeps_the_outputs_and_leaves_a_plain_model():
    model = tiny_llama()
    names = [name for name, _ in model.named_parameters()]
    add_adapter(model, Lora(rank=4, rank_stabilised=True))
    trained(model)
    before = logits(model)
    merge_adapter(model)
    torch.testing.assert_close(logits(model), before, atol=1e-6, rtol=0)
    assert [name for name, _ in model.named_parameters()] == names


def test_merging_agrees_with_peft(tmp_path):
    saved_by_peft(tmp_path, r=4, lora_alpha=6, target_modules="all-linear")
    ours = tiny_llama()
    load_adapter(ours, tmp_path)
    merge_adapter(ours)
    theirs = by_peft(tmp_path, tiny_llama()).merge_and_unload()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-6, rtol=0)


def test_merging_into_bfloat16_rounds_once():
    # Above 1, bf16 has steps of 2^-7, and 1 + 2^-8 is a tie that falls to 1. The second part of the
    # correction, 2^-18, breaks the tie upwards, but only if B A and the sum are kept in float32.
    base = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(base.weight, 1.0)
    correction = Correction(torch.ones(2, 1), torch.tensor([[2.0**-8, 2.0**-18]]), 1.0)
    model = nn.Sequential(LoraLinear(base, correction, dropout=0.0))
    merge_adapter(model)
    assert model[0].weight.dtype == torch.bfloat16
    assert model[0].weight.item() == 1 + 2**-7


def test_merging_twice_is_refused():
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    merge_adapter(trained(model))
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="merged already"):
        merge_adapter(model)
    torch.testing.assert_close(model.state_dict(), weights, atol=0, rtol=0)


def test_a_merge_that_changes_nothing_is_refused_and_leaves_the_adapter():
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    with pytest.raises(UserError, match="never trained"):
        merge_adapter(model)
    assert adapted_layers(model)
    # Trained, but below the resolution of bf16: 1 + 2^-10 is 1.
    base = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(base.weight, 1.0)
    correction = Correction(torch.ones(1, 1), torch.full((1, 1), 2.0**-10), 1.0)
    with pytest.raises(UserError, match=r"below the rounding of torch\.bfloat16"):
        merge_adapter(nn.Sequential(LoraLinear(base, correction, dropout=0.0)))


def test_one_trained_layer_is_enough_to_merge():
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    last = adapted_layers(model)["model.layers.1.mlp.down_proj"]
    nn.init.ones_(last.lora_B)
    before = logits(model)
    merge_adapter(model)
    torch.testing.assert_close(logits(model), before, atol=1e-6, rtol=0)


def test_a_diverged_adapter_is_not_merged():
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    layers = adapted_layers(trained(model))
    with torch.no_grad():
        layers["model.layers.1.mlp.up_proj"].lora_B[0, 0] = math.nan
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj has infinite or NaN"):
        merge_adapter(model)
    torch.testing.assert_close(model.state_dict(), weights, atol=0, rtol=0, equal_nan=True)


# ---- what users get wrong ----


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("q_prj",), "Did you mean q_proj?"),
        (("attention",), "Its layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"),
        (("q_proj", "lm_head"), "lm_head, and the output head and routers are never adapted"),
        (("embed_tokens",), "no linear layer of this model ends in that"),
    ],
)
def test_wrong_targets(targets, message):
    model = tiny_llama()
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        add_adapter(model, Lora(rank=2, targets=targets))
    assert not adapted_layers(model) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "values", [dict(rank=-1), dict(alpha=0.0), dict(alpha=math.nan), dict(dropout=1.0), dict(dropout=-0.1)]
)
def test_wrong_settings(values):
    with pytest.raises(UserError, match=f"lora.{next(iter(values))} is"):
        Lora(**values)


def test_a_second_adapter_is_refused(tmp_path):
    saved_by_peft(tmp_path, r=2, target_modules=["q_proj"])
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    with pytest.raises(UserError, match="already carries an adapter"):
        add_adapter(model, Lora(rank=2))
    with pytest.raises(UserError, match="already carries an adapter"):
        load_adapter(model, tmp_path)


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
    with pytest.raises(UserError, match="trained on tiny with digest abc, and this base has digest def"):
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


def test_a_save_that_fails_leaves_no_adapter(tmp_path, monkeypatch):
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    save_adapter(model, tmp_path, Lora(rank=2), "tiny", "")

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rung.models.peft_format.os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(trained(model), tmp_path, Lora(rank=2), "tiny", "")
    assert [file.name for file in tmp_path.iterdir()] == [WEIGHTS]  # the old one, whole, and no config
