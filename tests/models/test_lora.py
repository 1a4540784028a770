"""LoRA against numbers worked out by hand and against its own promises; PEFT has its say next door."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from lora_case import TOKENS, logits, tiny_llama, trained
from torch import nn

from rung.errors import UserError
from rung.models.lora import (
    LoraLinear,
    adapted_layers,
    add_adapter,
    merge_adapter,
    target_layers,
)
from rung.models.peft_format import Correction
from rung.settings import Lora

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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


def test_a_second_adapter_is_refused():
    model = tiny_llama()
    add_adapter(model, Lora(rank=2))
    with pytest.raises(UserError, match="already carries an adapter"):
        add_adapter(model, Lora(rank=2))
