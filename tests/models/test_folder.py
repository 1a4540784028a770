"""What rung writes, transformers opens with equal logits; what is broken is named, nothing is left."""

import copy
import errno
import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from folder_case import logits_of, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rung.errors import UserError
from rung.models import folder as module
from rung.models.folder import (
    check_vocabulary,
    digest,
    load_into,
    read_config,
    read_generation_config,
    read_tensors,
    special_tokens,
    write_folder,
    write_tensors,
)

FAMILIES = {
    "llama": {},
    "llama tied": dict(tie_word_embeddings=True),
    "qwen3": {},
    "gemma2": dict(query_pre_attn_scalar=8),
    "gemma3_text": dict(query_pre_attn_scalar=8),
    "qwen3_moe": dict(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=12),
}


@pytest.fixture
def saved(tmp_path):
    """A folder as transformers writes it, and the model."""
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "given")
    return tmp_path / "given", model


@pytest.mark.parametrize("case", FAMILIES)
def test_transformers_reopens_what_was_read_and_written_with_equal_logits(case, tmp_path):
    model = tiny_model(case.split()[0], **FAMILIES[case])
    model.save_pretrained(tmp_path / "given")
    tensors = read_tensors(tmp_path / "given")
    write_folder(tmp_path / "written", tensors, read_config(tmp_path / "given"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "written").eval()
    assert torch.equal(logits_of(again), logits_of(model))
    assert digest(read_tensors(tmp_path / "written")) == digest(tensors)


def test_shards_with_an_index_reopen_too(tmp_path):
    model = tiny_model("qwen3")
    model.save_pretrained(tmp_path / "given", max_shard_size="20KB")
    tensors = read_tensors(tmp_path / "given")  # sharded by transformers
    write_folder(tmp_path / "written", tensors, read_config(tmp_path / "given"), max_shard_bytes=30_000)
    shards = sorted((tmp_path / "written").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    biggest = max(t.nbytes for t in tensors.values())
    assert all(sum(t.nbytes for t in load_file(s).values()) <= max(30_000, biggest) for s in shards)
    index = json.loads((tmp_path / "written" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "written").eval()
    assert torch.equal(logits_of(again), logits_of(model))


def test_shards_are_filled_before_the_next_begins(tmp_path):
    tensors = {name: torch.ones(10) for name in "abcdefg"}  # 40 bytes each, two in 100
    write_tensors(tmp_path, tensors, max_shard_bytes=100)
    assert [list(load_file(f)) for f in sorted(tmp_path.glob("*.safetensors"))] == [
        ["a", "b"], ["c", "d"], ["e", "f"], ["g"],
    ]  # fmt: skip


def test_a_tied_head_is_not_written_twice(tmp_path):
    model = tiny_model("llama", tie_word_embeddings=True)
    assert "lm_head.weight" in model.state_dict()
    write_folder(tmp_path / "m", model.state_dict(), model.config.to_dict())
    assert "lm_head.weight" not in read_tensors(tmp_path / "m")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert torch.equal(logits_of(again), logits_of(model))


def test_tokenizer_template_and_stop_ids_travel_with_the_weights(tmp_path):
    model, tokenizer = tiny_model("llama", eos_token_id=[4, 2]), tiny_tokenizer()
    write_folder(tmp_path / "m", model.state_dict(), model.config.to_dict(), tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path / "m")
    messages = [{"role": "user", "content": "12 é"}]
    assert again.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\n12 é<|im_end|>\n"
    assert again("a<|im_end|>")["input_ids"] == tokenizer("a<|im_end|>")["input_ids"]
    assert again.eos_token_id == 2 and again.pad_token_id == 0
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == [2, 4]
    assert read_generation_config(tmp_path / "m") == {
        "bos_token_id": 1,
        "pad_token_id": 0,
        "eos_token_id": [2, 4],
    }


def test_given_generation_config_is_kept_and_absent_ids_are_left_out(tmp_path):
    model = tiny_model("llama")
    given = {"eos_token_id": [7], "temperature": 0.3, "do_sample": True}
    write_folder(tmp_path / "m", model.state_dict(), model.config.to_dict(), generation_config=given)
    assert read_generation_config(tmp_path / "m") == given
    assert special_tokens({}) == {}
    assert special_tokens({"eos_token_id": 0}) == {"eos_token_id": [0]}


def test_written_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_folder(tmp_path / "m", {"a": torch.ones(2)}, {"model_type": "llama"}, tiny_tokenizer())
    finally:
        os.umask(before)
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "m").iterdir()} == {0o644}


def test_config_states_the_dtype_of_the_weights(tmp_path):
    model = tiny_model("llama").to(torch.bfloat16)
    config = {**model.config.to_dict(), "dtype": "float32", "torch_dtype": "float32"}
    write_folder(tmp_path / "m", model.state_dict(), config)
    written = read_config(tmp_path / "m")
    assert written["dtype"] == "bfloat16" and "torch_dtype" not in written
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").dtype == torch.bfloat16


def test_floating_tensors_are_cast_and_integers_are_not(tmp_path):
    save_file(
        {"w": torch.tensor([1.0, 1 / 3]), "n": torch.tensor([2**40 + 1])}, tmp_path / "model.safetensors"
    )
    read = read_tensors(tmp_path, torch.bfloat16)
    assert read["w"].tolist() == [1.0, 0.333984375] and read["w"].dtype == torch.bfloat16
    assert read["n"].tolist() == [2**40 + 1]


def test_tensors_read_do_not_hang_on_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(10.0)}, file)
    read = read_tensors(tmp_path)["w"]
    with file.open("r+b") as stream:  # what a careless copy over a file in use does
        stream.seek(-40, os.SEEK_END)
        stream.write(b"\0" * 40)
    assert read.tolist() == list(range(10))


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("tied", [True, False])
def test_load_into_meta_and_real_modules(tmp_path, device, tied):
    model = tiny_model("llama", tie_word_embeddings=tied)
    tensors = {k: v.clone() for k, v in model.state_dict().items()}  # a tied head is written out, as many do
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors")
    trunk = copy.deepcopy(model.model).to(device)
    head = torch.nn.Linear(32, 300, bias=False, device=device)
    target = torch.nn.ModuleDict({"model": trunk} if tied else {"model": trunk, "lm_head": head})
    target["model"].norm.weight.requires_grad_(False)
    load_into(target, tmp_path, torch.bfloat16)
    for name, tensor in target.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, tensors[name].bfloat16()), name
    assert not target["model"].norm.weight.requires_grad
    assert target["model"].embed_tokens.weight.requires_grad


def broken(saved, change) -> str:
    """The message of load_into after `change` was made to the tensors on disk."""
    path, _ = saved
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")
    target = tiny_model("llama")
    before = digest(target.state_dict())
    with pytest.raises(UserError) as error:
        load_into(target, path)
    assert digest(target.state_dict()) == before, "must be told before anything is assigned"
    return str(error.value)


def test_missing_extra_and_misshapen_tensors_are_told_at_once(saved):
    def change(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.7.q_norm.weight"] = torch.ones(1)
        tensors["lm_head.weight"] = torch.ones(301, 32)

    message = broken(saved, change)
    assert "1 tensors missing: model.norm.weight" in message
    assert "no place for: model.layers.7.q_norm.weight" in message
    assert "lm_head.weight is [301, 32] in model.safetensors, the config says [300, 32]" in message
    assert str(saved[0]) in message


def test_only_the_head_missing_hints_at_tying(saved):
    assert "tie_word_embeddings" in broken(saved, lambda tensors: tensors.pop("lm_head.weight"))


def test_tied_model_with_a_different_head_on_disk_is_refused(tmp_path):
    model = tiny_model("llama", tie_word_embeddings=True)
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    tensors["lm_head.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    target = torch.nn.ModuleDict({"model": model.model})
    with pytest.raises(UserError, match=r"lm_head.weight in model.safetensors differs.*tie_word_embeddings"):
        load_into(target, tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 40, -8])
def test_truncated_file_is_named(saved, keep):
    file = saved[0] / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    with pytest.raises(UserError, match=r"given/model.safetensors is truncated .*fetch it again"):
        read_tensors(saved[0])


def test_missing_shard_and_lying_index_are_named(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["ghost.weight"] = sorted(set(index["weight_map"].values()))[0]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"promises tensors .*ghost.weight"):
        read_tensors(tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"misses 1 of its .*{shard.name}"):
        read_tensors(tmp_path)


def test_folders_that_are_no_models_are_explained(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_config(tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="LoRA adapter"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(UserError, match=r"config.json is not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="one JSON object, not list"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="model_type"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="with its weights"):
        read_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="convert them to safetensors"):
        read_tensors(tmp_path)


def test_vocabulary_larger_than_the_embedding():
    assert len(tiny_tokenizer()) == 260
    check_vocabulary(tiny_tokenizer(), {"vocab_size": 260})
    check_vocabulary(tiny_tokenizer(), {"vocab_size": 300})
    with pytest.raises(UserError, match=r"up to 261 \('<extra1>'\).*261 rows"):
        check_vocabulary(tiny_tokenizer(extra=2), {"vocab_size": 261})


def test_digest_sees_names_dtypes_shapes_and_bytes_but_not_order():
    a, b = torch.arange(6, dtype=torch.float32), torch.ones(())
    base = digest({"a": a, "b": b})
    assert base == digest({"b": b.clone(), "a": a.clone()})
    assert base == digest({"a": torch.stack([a, a], 1)[:, 0], "b": b})  # a view that is not contiguous
    others = [
        {"a": a, "c": b},
        {"a": a.view(2, 3), "b": b},
        {"a": a.view(torch.int32), "b": b},
        {"a": a.flip(0), "b": b},
        {"a": a},
    ]
    assert len({base, *map(digest, others)}) == 6


def test_existing_folder_is_not_touched(saved):
    before = (saved[0] / "config.json").read_bytes()
    with pytest.raises(UserError, match="already exists"):
        write_folder(saved[0], {"a": torch.ones(1)}, {"model_type": "llama"})
    assert (saved[0] / "config.json").read_bytes() == before
    write_folder(saved[0], {"a": torch.ones(1)}, {"model_type": "llama"}, existing="replace")
    assert list(read_tensors(saved[0])) == ["a"]


def test_full_disk_in_the_middle_leaves_nothing_and_says_what_was_needed(tmp_path, monkeypatch):
    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise module.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(UserError, match=r"disk is full: .*/m \(0.0\d GB\) was not written"):
        write_folder(tmp_path / "m", {"a": torch.ones(1000)}, {"model_type": "llama"})
    assert list(tmp_path.iterdir()) == []


def test_too_large_for_the_disk_is_refused_before_writing(tmp_path):
    huge = torch.empty(1 << 50, device="meta")
    with pytest.raises(UserError, match=r"/m needs 45\d\d\d\d\d\.\d\d GB"):
        write_folder(tmp_path / "m", {"a": huge}, {"model_type": "llama"})
    assert list(tmp_path.iterdir()) == []


def test_a_real_write_error_is_reported_by_safetensors_the_way_we_read_it(tmp_path):
    """The number in its message tells a full disk from a bug; a file size limit has another number."""
    code = (
        "import resource, signal, sys, pathlib, torch; from rung.models.folder import write_tensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))\n"
        "try: write_tensors(pathlib.Path(sys.argv[1]), {'a': torch.ones(9999)})\n"
        "except OSError as error: sys.exit(error.errno)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert done.returncode == errno.EFBIG


def test_views_and_other_layouts_are_written_as_they_read(tmp_path):
    flat = torch.arange(12.0)
    tensors = {"a": flat[:6].view(2, 3), "b": flat[6:].view(3, 2).t(), "s": torch.tensor(2.5)}
    write_tensors(tmp_path, tensors)
    read = read_tensors(tmp_path)
    assert read["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and read["b"].tolist() == [[6, 8, 10], [7, 9, 11]]
    assert read["s"].item() == 2.5
    header_length = struct.unpack("<Q", (tmp_path / "model.safetensors").read_bytes()[:8])[0]
    header = json.loads((tmp_path / "model.safetensors").read_bytes()[8 : 8 + header_length])
    assert header["__metadata__"] == {"format": "pt"}
