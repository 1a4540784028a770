"""`rung merge-adapter` from the command line on a tiny Llama folder, judged by transformers and PEFT."""

import json
import math
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rung.cli import status
from rung.commands.merge_adapter import Check, MergeAdapter, must_be_close
from rung.errors import UserError
from rung.models.folder import digest, read_tensors
from rung.models.load import load_model
from rung.models.lora import adapted_layers, add_adapter, save_adapter
from rung.settings import Lora

TOKENS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=260
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    letters = ByteLevelBPETokenizer()
    letters.train_from_iterator([], vocab_size=256)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters._tokenizer, eos_token="<end>")
    tokenizer.chat_template = "base template"
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path, base):
    return write_adapter(tmp_path / "adapter", base, size=0.2)


def write_adapter(path, base, size: float, base_name: str | None = None):
    """An adapter of ours whose corrections have entries of about `size` squared."""
    model = load_model(base)
    add_adapter(model, Lora(rank=4))
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B.normal_(0, size, generator=torch.Generator().manual_seed(1))
    name = str(base) if base_name is None else base_name
    save_adapter(model, path, Lora(rank=4), name, digest(read_tensors(base)))
    return path


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def refused(capsys, argv, message: str, out) -> None:
    before = sorted(out.parent.iterdir())
    assert status([str(word) for word in argv]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(out.parent.iterdir()) == before  # not the folder, nor a temporary one


def test_the_folder_is_a_model_with_the_outputs_of_base_and_adapter(tmp_path, base, adapter, capsys):
    out = tmp_path / "merged"
    assert status(["merge-adapter", str(adapter), "--out", str(out)]) == 0
    assert "merged 14 layers" in capsys.readouterr().out
    merged = AutoModelForCausalLM.from_pretrained(out)
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(logits(merged), logits(with_adapter), atol=1e-6, rtol=0)
    untouched = {
        name: tensor for name, tensor in load_file(base / "model.safetensors").items() if "proj" not in name
    }
    written = load_file(out / "model.safetensors")
    torch.testing.assert_close({name: written[name] for name in untouched}, untouched, atol=0, rtol=0)

    lineage = json.loads((out / "lineage.json").read_text())
    assert lineage["base"] == str(base) and lineage["adapter"] == str(adapter)
    assert lineage["base_digest"] == digest(read_tensors(base))
    assert lineage["adapter_digest"] == digest(load_file(adapter / "adapter_model.safetensors"))
    assert float(lineage["largest_logit_difference"]) < 1e-4


def test_the_tokenizer_of_the_training_run_goes_before_that_of_the_base(tmp_path, base, adapter):
    assert status(["merge-adapter", str(adapter), f"out={tmp_path / 'first'}"]) == 0
    trained = PreTrainedTokenizerFast.from_pretrained(base)
    trained.chat_template = "trained template"
    trained.save_pretrained(adapter)
    assert status(["merge-adapter", str(adapter), f"out={tmp_path / 'second'}"]) == 0
    assert (tmp_path / "first" / "chat_template.jinja").read_text() == "base template"
    assert (tmp_path / "second" / "chat_template.jinja").read_text() == "trained template"


def test_an_adapter_of_peft_without_a_base_name_asks_for_it(tmp_path, base, capsys):
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear")
    )
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "lora_B" in name:
                tensor.fill_(0.1)
    theirs.save_pretrained(tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    (tmp_path / "peft" / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": None})
    )
    argv = ["merge-adapter", str(tmp_path / "peft"), "--out", str(tmp_path / "merged")]
    refused(capsys, argv, "Write --base MODEL", tmp_path / "merged")
    assert status([*argv, "--base", str(base)]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(theirs), atol=1e-6, rtol=0)


def test_a_bfloat16_base_stays_bfloat16_unless_asked_otherwise(tmp_path, base):
    tensors = load_file(base / "model.safetensors")
    save_file(
        {name: t.bfloat16() for name, t in tensors.items()}, base / "model.safetensors", {"format": "pt"}
    )
    adapter = write_adapter(tmp_path / "again", base, size=0.02)
    assert status(["merge-adapter", str(adapter), "--out", str(tmp_path / "half")]) == 0
    assert status(["merge-adapter", str(adapter), "--out", str(tmp_path / "full"), "--dtype", "float32"]) == 0
    half, full = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "full"))
    assert {t.dtype for t in half.values()} == {torch.bfloat16}
    assert {t.dtype for t in full.values()} == {torch.float32}
    # Folded in float32 and rounded once, so the half folder is the full one rounded.
    torch.testing.assert_close({n: t.bfloat16() for n, t in full.items()}, half, atol=0, rtol=0)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_lost_in_rounding_is_not_written(tmp_path, base, capsys):
    tensors = load_file(base / "model.safetensors")
    save_file(
        {name: t.bfloat16() for name, t in tensors.items()}, base / "model.safetensors", {"format": "pt"}
    )
    faint = write_adapter(tmp_path / "faint", base, size=1e-6)
    out = tmp_path / "merged"
    refused(capsys, ["merge-adapter", faint, "--out", out], "Write --dtype float32", out)
    assert status(["merge-adapter", str(faint), "--out", str(out), "--dtype", "float32"]) == 0


def test_a_wrong_merge_does_not_pass_the_check(tmp_path, adapter, capsys, monkeypatch):
    import rung.models.lora as lora

    honest = lora.merge_weights

    def slightly_less_of_one(weights, corrections):
        name, last = list(corrections.items())[-1]
        honest(weights, {**corrections, name: replace(last, scale=0.9 * last.scale)})

    monkeypatch.setattr(lora, "merge_weights", slightly_less_of_one)
    out = tmp_path / "merged"
    refused(capsys, ["merge-adapter", adapter, "--out", out], "was not written", out)


def test_a_merged_model_that_gives_nan_is_not_close():
    with pytest.raises(UserError, match="was not written"):
        must_be_close(Check(merged=math.nan, adapter=1.0, allowed=0.1), MergeAdapter("a", out="b"))


def test_a_base_without_the_layers_of_the_adapter(tmp_path, base, capsys):
    deep = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"])
    )
    deep.save_pretrained(tmp_path / "peft")
    config = LlamaConfig.from_pretrained(base, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "shallow")
    out = tmp_path / "merged"
    argv = ["merge-adapter", tmp_path / "peft", "--base", tmp_path / "shallow", "--out", out]
    (tmp_path / "shallow" / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    refused(capsys, argv, "have no tensor model.layers.1.self_attn.q_proj.weight", out)


def test_other_weights_than_it_was_trained_on(tmp_path, base, adapter, capsys):
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    out = tmp_path / "merged"
    refused(capsys, ["merge-adapter", adapter, "--out", out], "its weights are not the same", out)


def test_a_merge_that_changes_nothing_and_a_second_merge(tmp_path, base, adapter, capsys):
    idle = write_adapter(tmp_path / "idle", base, size=0.0)
    out = tmp_path / "merged"
    refused(capsys, ["merge-adapter", idle, "--out", out], "Merging changes no weight", out)
    assert status(["merge-adapter", str(adapter), "--out", str(out)]) == 0
    again = tmp_path / "again"
    # Counting an adapter twice needs a base that already holds it, and its digest tells.
    argv = ["merge-adapter", adapter, "--base", out, "--out", again]
    refused(capsys, argv, "its weights are not the same", again)
    refused(capsys, ["merge-adapter", adapter, "--out", out], "already exists", out)
    refused(capsys, ["merge-adapter", out, "--out", again], "it has no adapter_config.json", again)


def test_a_base_that_is_an_adapter_itself(tmp_path, base, adapter, capsys):
    second = write_adapter(tmp_path / "second", base, size=0.2, base_name=str(adapter))
    out = tmp_path / "merged"
    refused(capsys, ["merge-adapter", second, "--out", out], "fold it in with `rung merge-adapter`", out)
