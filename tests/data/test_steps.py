"""Where a step ends, whatever the tokenizer, and what is no judged row."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from rung.data.steps import load_steps
from rung.data.tokens import decode
from rung.errors import UserError


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


def file_of(folder, *rows):
    file = folder / "steps.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def load(file, tokenizer, **more):
    options = {"step_end": "\n\n", "max_length": 200} | more
    return load_steps([file], tokenizer, **options)


ROW = {
    "prompt": [{"role": "user", "content": "2+3*4?"}],
    "completions": ["3*4=12", "2+12=15", "é so 15"],
    "labels": [True, False, 0.25],
}


def test_marks_stand_where_steps_end_and_carry_their_labels(tmp_path, tokenizer):
    [example] = load(file_of(tmp_path, ROW), tokenizer).examples
    places = np.flatnonzero(example.trained)
    assert example.columns["label"][places].tolist() == [1, 0, 0.25]
    assert not example.columns["label"][~example.trained].any()
    said = [decode(tokenizer, example.token_ids[: place + 1].tolist()) for place in places]
    assert said[0].endswith("assistant\n3*4=12\n\n")
    assert said[1].endswith("2+12=15\n\n")
    assert said[2].endswith("é so 15")
    short = [decode(tokenizer, example.token_ids[:place].tolist()) for place in places]
    assert not any(text.endswith(end) for text, end in zip(short, ("\n\n", "\n\n", "15"), strict=True))


def test_a_character_of_two_tokens_ends_a_step_with_its_second(tmp_path, tokenizer):
    row = ROW | {"completions": ["caf\u00e9", "th\u00e9"], "labels": [1, 0]}
    [example] = load(file_of(tmp_path, row), tokenizer, step_end="\u00e8").examples
    said = [
        decode(tokenizer, example.token_ids[: place + 1].tolist())
        for place in np.flatnonzero(example.trained)
    ]
    assert said[0].endswith("caf\u00e9\u00e8") and said[1].endswith("caf\u00e9\u00e8th\u00e9")


def test_strings_go_without_a_template(tmp_path, tokenizer):
    [example] = load(file_of(tmp_path, ROW | {"prompt": "2+3*4? "}), tokenizer).examples
    assert decode(tokenizer, example.token_ids.tolist()) == "2+3*4? 3*4=12\n\n2+12=15\n\né so 15<|im_end|>"
    assert example.trained.sum() == 3


def test_another_end_of_step(tmp_path, tokenizer):
    [example] = load(file_of(tmp_path, ROW), tokenizer, step_end=" ки\n").examples
    first = int(np.flatnonzero(example.trained)[0])
    assert decode(tokenizer, example.token_ids[: first + 1].tolist()).endswith("3*4=12 ки\n")


def test_a_tokenizer_that_merges_reads_at_the_token_that_holds_the_end(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<eos>", "<unk>", "a", "b", "\n", "b\n", "b\n\n", "p", " "]
    merges = [("b", "\n"), ("b\n", "\n")]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(pieces)}, merges, unk_token="<unk>"))
    from tokenizers import decoders

    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    row = {"prompt": "p", "completions": ["ab", "a"], "labels": [1, 0]}
    [example] = load(file_of(tmp_path, row), tokenizer).examples
    assert example.token_ids.tolist() == [7, 2, 6, 2, 0]
    assert np.flatnonzero(example.trained).tolist() == [2, 3]


def test_too_long_is_dropped_or_loses_its_last_marks(tmp_path, tokenizer):
    long = ROW | {"completions": ["3*4=12", "x" * 300], "labels": [1, 0]}
    file = file_of(tmp_path, ROW, long)
    dropped = load(file, tokenizer, max_length=120)
    assert len(dropped.examples) == 1 and dropped.dropped == 1
    cut = load(file, tokenizer, max_length=120, overlong="truncate")
    assert [int(e.trained.sum()) for e in cut.examples] == [3, 1]
    assert all(len(e.columns["label"]) == len(e) <= 120 for e in cut.examples)
    assert dropped.digest != cut.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [True, False]}, "2 entries for 3 completions"),
        ({"labels": [True, False, 1.5]}, "1.5; write true or false, or a share"),
        ({"labels": [True, "no", 1]}, "'no'"),
        ({"labels": "yes"}, "write a list"),
        ({"completions": ["a", " ", "c"]}, "says something"),
        ({"completions": ["a", "b\n\nc", "d"]}, "end of a step"),
        ({"completions": []}, "completions"),
        ({"prompt": None}, "no prompt"),
    ],
)
def test_bad_rows_are_refused_by_file_and_row(tmp_path, tokenizer, change, message):
    with pytest.raises(UserError, match=r"steps\.jsonl:2") as error:
        load(file_of(tmp_path, ROW, ROW | change), tokenizer)
    assert message in str(error.value)


def test_an_empty_end_of_step_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="--step-end is empty"):
        load(file_of(tmp_path, ROW), tokenizer, step_end="")
