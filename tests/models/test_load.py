"""Names to models: the decoder where it has every part, transformers where not, one message where neither."""

import json

import pytest
import torch
from decoder_case import CASES, SIZES, packed, reference, tokens
from transformers import AutoConfig, AutoModelForCausalLM

from rung.errors import UserError
from rung.models.config import DecoderConfig, supported
from rung.models.decoder import Decoder
from rung.models.fallback import TransformersDecoder
from rung.models.load import base_of, load_model
from rung.models.lora import add_adapter, save_adapter
from rung.settings import Lora


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    reference("llama").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_every_listed_family_is_the_decoders(case):
    family, changes = CASES[case]
    assert supported({**SIZES, **changes, "model_type": family})


PARTS_WE_LACK = {
    "dynamic RoPE": dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
    "another activation": dict(hidden_act="relu"),
    "partial rotation": dict(
        rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)
    ),
}


@pytest.mark.parametrize("part", PARTS_WE_LACK)
@torch.no_grad()
def test_a_listed_family_with_a_part_we_lack_goes_to_transformers(part, tmp_path):
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **SIZES, **PARTS_WE_LACK[part])
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).eval()
    assert isinstance(ours, TransformersDecoder)
    ids = tokens(9)
    torch.testing.assert_close(ours.logits(packed(ours, [ids])), theirs(ids[None]).logits[0])


def test_a_gemma_that_looks_ahead_is_not_ours():
    family, changes = CASES["gemma3_text"]
    assert not supported({**SIZES, **changes, "model_type": family, "use_bidirectional_attention": True})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_in_the_dtype_asked_for(dtype, llama):
    model = load_model(str(llama), dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(not parameter.is_meta for parameter in model.parameters())


def test_weights_go_to_the_device_asked_for(llama):
    assert all(parameter.is_meta for parameter in load_model(llama, device="meta").parameters())


@torch.no_grad()
def test_an_adapter_folder_opens_on_its_base(llama, tmp_path):
    model = load_model(llama)
    plain = packed(model, [tokens(9)])
    add_adapter(model, Lora(rank=2), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.add_(torch.randn_like(parameter))
    adapted = packed(model, [tokens(9)])
    tmp_path.joinpath("adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", Lora(rank=2), str(llama), "digest")
    assert base_of(tmp_path / "adapter") == str(llama)
    opened = packed(load_model(tmp_path / "adapter"), [tokens(9)])
    torch.testing.assert_close(opened, adapted)
    assert not torch.allclose(opened, plain, atol=1e-2)


def broken(folder, source, **changes):
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_attention_heads="many"), "config.json of this llama model cannot be read"),
        (dict(hidden_size=47), "config.json"),
        (dict(model_type="frobnicator"), "frobnicator model, which transformers cannot open"),
        (dict(num_hidden_layers=5), "tensors missing"),
        (dict(num_hidden_layers=3), "tensors the model has no place for"),
        (dict(intermediate_size=8), "of another shape"),
    ],
)
def test_a_folder_that_contradicts_itself_is_told(changes, message, llama, tmp_path):
    with pytest.raises(UserError, match=message):
        load_model(broken(tmp_path, llama, **changes))


def test_reading_a_config_fills_in_what_the_family_leaves_out():
    read = DecoderConfig.from_hf(
        {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    )
    assert (read.head_width, read.kv_heads, read.activation, read.scale) == (16, 4, "silu", 0.25)
    assert isinstance(read, DecoderConfig) and not read.tied
    assert len(read.ropes) == len(read.windows) == len(read.experts) == 2


def test_the_decoder_is_built_without_memory_and_loaded_whole(llama):
    model = load_model(llama)
    assert isinstance(model, Decoder)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(llama).parameters()
    )
