"""GGUF and back: the model that comes out computes what the model that went in computed."""

import json

import gguf
import pytest
import torch
from folder_case import TEMPLATE, logits_of, tiny_model
from gguf_case import PLAIN, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rung.errors import UserError
from rung.models.folder import read_config, read_tensors
from rung.models.gguf import convert_gguf, open_gguf
from rung.models.gguf import read_config as gguf_config
from rung.models.gguf_tokenizer import build_tokenizer

Q = gguf.GGMLQuantizationType
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}
FAMILIES = {
    "llama": ("llama", {}),
    "llama tied": ("llama", dict(tie_word_embeddings=True)),
    "llama biased": ("llama", dict(attention_bias=True)),
    "qwen2": ("qwen2", {}),
    "qwen2 yarn": ("qwen2", dict(rope_parameters=YARN)),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", dict(query_pre_attn_scalar=8, sliding_window=4)),
    "gemma3": ("gemma3_text", dict(query_pre_attn_scalar=8, sliding_window=4, num_hidden_layers=6)),
    "olmo2": ("olmo2", {}),
}


def through(tmp_path, architecture, model, **kwargs):
    write_gguf(tmp_path / "m.gguf", architecture, model, **kwargs)
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()


@pytest.mark.parametrize("case", FAMILIES)
def test_every_family_computes_the_same_after_the_round_trip(case, tmp_path):
    family, changes = FAMILIES[case]
    model = tiny_model(family, **changes)
    extra = {}
    if "yarn" in case:
        extra = {"{arch}.rope.scaling.type": "yarn", "{arch}.rope.scaling.factor": 4.0}
        extra["{arch}.rope.scaling.original_context_length"] = 16
    again = through(tmp_path, case.split()[0], model, extra=extra)
    assert type(again) is type(model)
    # Gemma's norms travel as weight + 1 in float32, so one rounding remains.
    torch.testing.assert_close(logits_of(again), logits_of(model), atol=2e-5, rtol=1e-5)
    if not case.startswith("gemma"):
        assert torch.equal(logits_of(again), logits_of(model))


def test_llama3_frequency_table_becomes_the_rule_that_gives_it(tmp_path):
    model = tiny_model("llama", rope_parameters=LLAMA3, head_dim=32)
    plain = 500000.0 ** (-torch.arange(0, 32, 2) / 32)
    table = plain / model.model.rotary_emb.inv_freq  # transformers' own scaled frequencies
    assert table.max() > 7.9 and table.min() < 1.01
    again = through(tmp_path, "llama", model, tensors={"rope_freqs.weight": table})
    assert read_config(tmp_path / "m")["rope_parameters"] == LLAMA3
    assert torch.equal(logits_of(again), logits_of(model))
    write_gguf(tmp_path / "odd.gguf", "llama", model, tensors={"rope_freqs.weight": table.flip(0)})
    with pytest.raises(UserError, match=r"odd.gguf scales RoPE by a table"):
        convert_gguf(tmp_path / "odd.gguf", tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_quantised_values_are_the_numbers_the_blocks_mean(tmp_path):
    """Q4_1: a block of 32 is `d * q + m` with half-precision d and m; Q8_0 is `d * q`."""
    model = tiny_model("llama")
    blocks = torch.arange(48 * 32).reshape(48, 32) % 16 * 0.25 - 1.0  # exactly Q4_1 with d = 0.25, m = -1
    rough = {"blk.0.ffn_up.weight": blocks}
    kinds = {"blk.0.ffn_up.weight": Q.Q4_1, "blk.1.ffn_up.weight": Q.Q8_0, "token_embd.weight": Q.F16}
    kinds["output.weight"] = Q.BF16
    before = model.model.layers[1].mlp.up_proj.weight.detach()
    through(tmp_path, "llama", model, tensors=rough, quantise=kinds)
    tensors = read_tensors(tmp_path / "m")
    assert torch.equal(tensors["model.layers.0.mlp.up_proj.weight"], blocks)
    after = tensors["model.layers.1.mlp.up_proj.weight"]
    step = before.abs().amax(1, keepdim=True) / 127  # rows are 32 long: one block each
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, (before / step).round() * step.half().float())
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16
    assert tensors["lm_head.weight"].dtype == torch.bfloat16
    assert torch.equal(tensors["model.embed_tokens.weight"], model.model.embed_tokens.weight.half())
    assert torch.equal(tensors["lm_head.weight"], model.lm_head.weight.bfloat16())


def test_config_states_what_the_file_states(tmp_path):
    model = tiny_model("qwen3", rms_norm_eps=1e-5, num_hidden_layers=3)
    extra = {"tokenizer.ggml.eot_token_id": 3}
    through(tmp_path, "qwen3", model, extra=extra)
    config = read_config(tmp_path / "m")
    kept = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "head_dim",
        "vocab_size",
    )
    for key in (*kept, "num_key_value_heads", "max_position_embeddings", "rope_parameters", "rms_norm_eps"):
        assert config[key] == model.config.to_dict()[key], key
    assert config["rms_norm_eps"] == 1e-5  # stored as the float32 9.99999974e-06
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == [2, 3]


@pytest.mark.parametrize(("layers", "scalar"), [(46, 8), (45, 16), (2, 16)])
def test_gemma2_27b_is_told_by_its_depth(tmp_path, layers, scalar):
    """Width 32 over 4 heads is 8; the head width is 16."""
    model = tiny_model("gemma2", num_hidden_layers=layers, head_dim=16, hidden_size=32, intermediate_size=4)
    path = write_gguf(tmp_path / "m.gguf", "gemma2", model)
    assert gguf_config(open_gguf(path))["query_pre_attn_scalar"] == scalar


def refused(tmp_path, match, architecture="llama", change=None, **kwargs):
    path = write_gguf(tmp_path / "m.gguf", architecture, **kwargs)
    if change is not None:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=match):
        convert_gguf(path, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_what_is_not_known_for_certain_is_refused(tmp_path):
    tiny = tiny_model("llama")
    refused(tmp_path, r"holds a 'mamba' model; of GGUF rung reads llama, qwen2", architecture="mamba")
    refused(
        tmp_path,
        r"a tensor blk.0.ffn_gate_exps.weight",
        model=tiny,
        tensors={"blk.0.ffn_gate_exps.weight": torch.ones(2)},
    )
    refused(tmp_path, r"one of 3 parts", model=tiny, extra={"split.count": 3})
    refused(tmp_path, r"cuts text by the rule 'klingon'", model=tiny, tokenizer={"pre": "klingon"})
    refused(tmp_path, r"tokenizer of kind 'bert'", model=tiny, tokenizer={"model": "bert"})
    refused(tmp_path, r"scales RoPE by longrope", model=tiny, extra={"{arch}.rope.scaling.type": "longrope"})
    refused(tmp_path, r"scales RoPE by yarn \{'attn_factor': 2.0\}", model=tiny,
            extra={"{arch}.rope.scaling.type": "yarn", "{arch}.rope.scaling.attn_factor": 2.0})  # fmt: skip
    refused(tmp_path, r"uses sliding windows", architecture="olmo2", model=tiny_model("olmo2"),
            extra={"{arch}.attention.sliding_window": 4})  # fmt: skip


@pytest.mark.parametrize("keep", [0, 10, 2000, -1000])
def test_truncated_files_are_named(tmp_path, keep):
    refused(
        tmp_path, r"m.gguf is truncated or no GGUF file", model=tiny_model("llama"), change=lambda b: b[:keep]
    )


def test_a_missing_number_is_named(tmp_path):
    refused(
        tmp_path,
        "does not state",
        tensors={"token_embd.weight": torch.ones(260, 32)},
        extra={"{arch}.context_length": 8},
    )


# The tokenizer.


def tokenizer_of(tmp_path, **kwargs):
    path = write_gguf(tmp_path / "t.gguf", "llama", extra={"{arch}.context_length": 64}, tokenizer=kwargs)
    tokenizer = build_tokenizer(open_gguf(path).metadata, path)
    tokenizer.save_pretrained(tmp_path / "t")
    (tmp_path / "t" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return AutoTokenizer.from_pretrained(tmp_path / "t")


def with_merges(*merges):
    """Tokens and merges such that the given pieces are merged wherever they meet in one word."""
    return {"tokens": PLAIN + [m.replace(" ", "") for m in merges], "merges": merges}


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["12", "34", "!", "!", "Ġ", "Ġ5", "a", "\u010a", "\u010a"]),
        ("smollm", ["1", "2", "3", "4", "!", "!", "Ġ", "Ġ", "5", "a", "\u010a", "\u010a"]),
        ("qwen2", ["1", "2", "3", "4", "!", "!\u010a", "Ġ"]),
        ("llama-bpe", ["12", "3", "4", "!", "!\u010a"]),
    ],
)
def test_text_is_cut_the_way_the_name_says(tmp_path, pre, expected):
    """A merge can only join what stands in one word, so merges show where words end."""
    tokenizer = tokenizer_of(tmp_path, pre=pre, **with_merges("1 2", "3 4", "Ġ 5", "! \u010a"))
    text = "1234!!  5a\n\n" if pre in ("gpt-2", "smollm") else "1234!!\n "[: 8 if pre == "qwen2" else 7]
    tokens = tokenizer.tokenize(text)
    assert (tokens[1:] if pre == "llama-bpe" and tokens[0] == "<s>" else tokens) == expected


def test_contractions_in_capitals_tell_gpt2_from_its_successors(tmp_path):
    """GPT-2 knows 's only in lower case; capitals are cut after the apostrophe."""
    merges = with_merges("' S")
    assert tokenizer_of(tmp_path, pre="smollm", **merges).tokenize("A'S") == ["A", "'", "S"]
    assert tokenizer_of(tmp_path, pre="qwen2", **merges).tokenize("A'S") == ["A", "'S"]


def test_qwen_composes_accents_and_others_take_text_as_it_is(tmp_path):
    apart, composed = "e\u0301", "\u00e9"
    assert (
        tokenizer_of(tmp_path, pre="qwen2").decode(tokenizer_of(tmp_path, pre="qwen2")(apart).input_ids)
        == composed
    )
    qwen = tokenizer_of(tmp_path, pre="qwen2")
    assert qwen.decode(qwen("\ufb01").input_ids) == "\ufb01"  # a ligature is not an accent
    smollm = tokenizer_of(tmp_path, pre="smollm")
    assert smollm.decode(smollm(apart).input_ids) == apart


def test_special_tokens_are_atomic_and_fillers_are_dropped(tmp_path):
    tokens = [*PLAIN, "<think>", "[PAD262]", "[PAD263]"]
    types = [3] * 4 + [1] * 257 + [4, 5, 5]
    tokenizer = tokenizer_of(tmp_path, tokens=tokens, types=types)
    assert len(tokenizer) == 262
    assert tokenizer("<|im_start|>x<think><|im_end|>").input_ids == [3, PLAIN.index("x"), 261, 2]
    assert tokenizer.decode([3, 261, 2], skip_special_tokens=True) == "<think>"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "<|im_end|>", "<pad>")
    assert tokenizer.chat_template == TEMPLATE and tokenizer.model_max_length == 64
    assert len(tokenizer("[PAD262]").input_ids) == len("[PAD262]")


@pytest.mark.parametrize(
    ("pre", "add_bos", "begins"),
    [("smollm", None, False), ("smollm", True, True), ("llama-bpe", None, True), ("llama-bpe", False, False)],
)
def test_the_beginning_token_is_added_once_or_not_at_all(tmp_path, pre, add_bos, begins):
    ids = tokenizer_of(tmp_path, pre=pre, add_bos=add_bos)("ab").input_ids
    assert ids.count(1) == int(begins) and (ids[0] == 1) == begins


def test_a_whole_word_is_taken_unmerged_only_by_llama3(tmp_path):
    """`ignore_merges`: Llama 3 looks a word up before it merges, so 'abc' needs no path of merges."""
    tokens = [*PLAIN, "abc"]
    assert tokenizer_of(tmp_path, pre="llama-bpe", add_bos=False, tokens=tokens).tokenize("abc") == ["abc"]
    assert tokenizer_of(tmp_path, pre="qwen2", tokens=tokens).tokenize("abc") == ["a", "b", "c"]


def test_a_tokenizer_without_merges_is_refused(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", "llama", extra={"{arch}.context_length": 64})
    metadata = {k: v for k, v in open_gguf(path).metadata.items() if k != "tokenizer.ggml.merges"}
    with pytest.raises(UserError, match=r"no whole tokenizer \(tokenizer.ggml.merges missing\)"):
        build_tokenizer(metadata, path)


@pytest.fixture(scope="module")
def byte_tokenizers(tmp_path_factory):
    return [
        tokenizer_of(tmp_path_factory.mktemp(pre), pre=pre, add_bos=False)
        for pre in ("gpt-2", "smollm", "llama-bpe")
    ]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(byte_tokenizers, text):
    for tokenizer in byte_tokenizers:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_spaces_before_punctuation_survive(byte_tokenizers):
    """Old tokenizers tidied English up while decoding, which breaks text in, same text out."""
    for tokenizer in byte_tokenizers:
        assert tokenizer.decode(tokenizer("a . b , do n't !").input_ids) == "a . b , do n't !"


def test_sentencepiece_vocabulary(tmp_path):
    """Llama 2's kind: spaces are ▁, a text begins with one, unknown characters fall back to bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
    types = [2, 3, 3] + [6] * 256 + [1] * 6
    writer = gguf.GGUFWriter(tmp_path / "s.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores([0.0] * 259 + [-9.0, -8.0, -7.0, -2.0, -3.0, -1.0])
    for name, index in (("bos", 1), ("eos", 2), ("unk", 0)):
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    path = tmp_path / "s.gguf"
    build_tokenizer(open_gguf(path).metadata, path).save_pretrained(tmp_path / "s")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "s")
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab b").input_ids) == ["<s>", "▁ab", "▁", "b"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("é").input_ids)[-2:] == ["<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer("ab bé").input_ids, skip_special_tokens=True) == "ab bé"
    assert tokenizer.eos_token == "</s>" and tokenizer.chat_template == TEMPLATE
