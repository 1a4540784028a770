"""A tiny random model with a byte tokenizer and a chat template, as a Hugging Face folder, and rows to train it on."""

import gc
import json
from pathlib import Path

import pytest

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_finish() -> None:
    """Thousands of tests and the libraries they import stay until the end: loading a model, which looks for circles of
    objects first, would look through them all each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    sizes = dict(vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256)
    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True)
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ids)).save_pretrained(folder)
    special = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(special + alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<pad>", chat_template=TEMPLATE
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory) -> Path:
    """Forty short conversations of different lengths."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": "say " + "ab" * (i % 7 + 1)},
                {"role": "assistant", "content": "xy" * (i % 5 + 1) + str(i)},
            ]
        }
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session", autouse=True)
def known_peak():
    """A run, and a plan, measure the machine's matrix peak for half a second; a number will do."""
    import rung.machine
    import rung.pipelines.observe

    rung.machine.matrix_peak = rung.pipelines.observe.matrix_peak = lambda *_: 1e12


@pytest.fixture(scope="module")
def chosen(request) -> list[dict]:
    """The parameters of the module's tests that read its `broken` and will be run: some of them are slow."""
    mine = [item for item in request.session.items if item.module is request.module]
    return [item.callspec.params for item in mine if "broken" in item.fixturenames]
