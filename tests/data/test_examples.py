"""From files to examples: what is trained of every kind of row, what is counted, what is refused."""

import json

import numpy as np
import pytest
from template_families import tokenizer_of

from rung.data.check import check
from rung.data.documents import Encoder
from rung.data.examples import load_examples, load_feedback, load_pairs
from rung.data.tokens import decode, token_policy
from rung.errors import UserError


@pytest.fixture
def data(tmp_path):
    """Write rows to a file, get its path."""

    def write(*rows, name="d.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def shown(example, tokenizer):
    """Untrained and trained text of an example whose answer is at its end."""
    start = int(example.trained.argmax())
    assert example.trained[start:].all() and example.token_ids.dtype == np.int32
    return decode(tokenizer, example.token_ids[:start]), decode(tokenizer, example.token_ids[start:])


def test_strings_need_no_template_and_end_with_eos(data):
    tokenizer = tokenizer_of("llama3")
    spec = data(
        {"prompt": "hello ", "completion": "world"}, {"text": "hello"}, {"text": "<|begin_of_text|>hello"}
    )
    completion, text, again = load_examples([spec], tokenizer, max_length=99).examples
    assert shown(completion, tokenizer) == ("<|begin_of_text|>hello ", "world<|end_of_text|>")
    assert shown(text, tokenizer) == ("<|begin_of_text|>", "hello<|end_of_text|>")
    assert again.token_ids.tolist() == text.token_ids.tolist()
    assert completion.origin == f"{spec}:1"


def test_the_boundary_of_strings_is_exact(data):
    """`hello w` + `orld` would be two words if tokenised whole."""
    tokenizer = tokenizer_of("chatml")
    [example] = load_examples(
        [data({"prompt": "hello w", "completion": "orld"})], tokenizer, max_length=99
    ).examples
    assert shown(example, tokenizer) == ("hello w", "orld<|im_end|>")


def test_pairs_share_their_prompt(data):
    for family in ("llama2", "llama3", "qwen3"):
        tokenizer = tokenizer_of(family)
        spec = data(
            {"prompt": [{"role": "user", "content": "hello"}], "chosen": "\n\nfour", "rejected": "two you"},
            {"prompt": "hello", "chosen": " four", "rejected": "two"},
        )
        for pair in load_pairs([spec], tokenizer, max_length=99).pairs:
            starts = int(pair.chosen.trained.argmax()), int(pair.rejected.trained.argmax())
            assert starts[0] == starts[1]
            prompts = [one.token_ids[: starts[0]].tolist() for one in (pair.chosen, pair.rejected)]
            assert prompts[0] == prompts[1]


def test_a_prompts_own_assistant_turns_are_not_trained(data):
    tokenizer = tokenizer_of("chatml")
    prompt = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "world"},
        {"role": "user", "content": "two"},
    ]
    [example] = load_examples(
        [data({"prompt": prompt, "completion": "four"})], tokenizer, max_length=99
    ).examples
    trained = decode(tokenizer, example.token_ids[example.trained])
    assert trained == "four<|im_end|>"


def test_demonstrations_from_preferences_and_labels(data):
    tokenizer = tokenizer_of("chatml")
    spec = data(
        {"prompt": "a ", "chosen": "hello", "rejected": "world"},
        {"prompt": "a ", "completion": "four", "label": True},
        {"prompt": "a ", "completion": "two", "label": False},
    )
    loaded = load_examples([spec], tokenizer, max_length=99)
    assert [shown(e, tokenizer)[1] for e in loaded.examples] == ["hello<|im_end|>", "four<|im_end|>"]
    assert loaded.report.drops == {"labelled as a bad answer": 1}


def test_feedback(data):
    spec = data(*({"prompt": "a ", "completion": "hello", "label": label} for label in (True, False)))
    loaded = load_feedback([spec], tokenizer_of("chatml"), max_length=99)
    assert [item.label for item in loaded.feedback] == [True, False]


def test_a_pair_is_dropped_whole_and_counted(data):
    tokenizer = tokenizer_of("chatml")
    spec = data(
        {"prompt": "hello", "chosen": " four" * 20, "rejected": " two"},
        {"prompt": "hello", "chosen": " four", "rejected": " two"},
    )
    loaded = load_pairs([spec], tokenizer, max_length=10)
    assert len(loaded.pairs) == 1 and loaded.sizes == [1]
    assert loaded.report.drops == {"longer than 10 tokens": 1}
    both = load_pairs([spec], tokenizer, max_length=10, overlong="truncate")
    assert len(both.pairs) == 2 and both.report.truncated == 1 and len(both.pairs[0].chosen) == 10


def test_the_report_counts_by_hand(data):
    tokenizer = tokenizer_of("chatml")
    row = {"prompt": "hello", "completion": " four"}  # 1 + 2 tokens, 2 trained
    spec = data(row, row, {"text": "hello"}, {"text": "hello world" * 9})
    report = load_examples([spec], tokenizer, max_length=5).report
    assert (report.rows, report.kept, report.refused, report.examples) == (4, 3, 0, 3)
    assert report.drops == {"longer than 5 tokens": 1}
    assert report.duplicates == 1
    assert report.tokens == 3 + 3 + 2
    assert report.supervised == 2 + 2 + 1  # nothing predicts the first token of a text
    assert report.lengths == {0: 2, 50: 3, 90: 3, 99: 3, 100: 3}


def test_forks_are_counted(data):
    turns = ["hello", "<think>a</think>four", "two", "world"]
    roles = ("user", "assistant")
    row = {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}
    loaded = load_examples([data(row)], tokenizer_of("qwen3"), max_length=999)
    assert len(loaded.examples) == 2 and loaded.report.forks == 1 and loaded.report.kept == 1
    keep = load_examples([data(row)], tokenizer_of("qwen3"), max_length=999, history_thinking="keep")
    assert len(keep.examples) == 1 and keep.report.forks == 0


def test_sizes_weights_and_digest(data):
    tokenizer = tokenizer_of("chatml")
    a = data({"text": "hello"}, {"text": "four"}, name="a.jsonl")
    b = data({"text": "two"}, name="b.jsonl")
    loaded = load_examples([f"{a}:3", f"{b}:1"], tokenizer, max_length=99)
    assert (loaded.sizes, loaded.weights) == ([2, 1], [3.0, 1.0])
    assert loaded.digest == load_examples([a, b], tokenizer, max_length=99).digest
    assert loaded.digest != load_examples([b, a], tokenizer, max_length=99).digest
    assert loaded.digest != load_examples([a, b], tokenizer_of("phi"), max_length=99).digest


def test_masks_change_the_digest(data):
    tokenizer = tokenizer_of("chatml")
    one = load_examples([data({"prompt": "hello four", "completion": " two"})], tokenizer, max_length=99)
    other = load_examples([data({"text": "hello four two"})], tokenizer, max_length=99)
    assert one.examples[0].token_ids.tolist() == other.examples[0].token_ids.tolist()
    assert one.digest != other.digest


def test_rows_of_the_wrong_kind_are_refused(data):
    spec = data({"text": "hello"})
    with pytest.raises(UserError, match=r"d.jsonl:1.*chosen and rejected"):
        load_pairs([spec], tokenizer_of("chatml"), max_length=99)
    with pytest.raises(UserError, match=r"d.jsonl:1.*prompt, completion, label"):
        load_feedback([spec], tokenizer_of("chatml"), max_length=99)


def test_answers_that_need_different_prompts_are_no_pair(data):
    """Qwen3 prompts an answer without reasoning with an empty think block, and one with reasoning without."""
    question = [{"role": "user", "content": "hello"}]
    spec = data({"prompt": question, "chosen": "four", "rejected": "<think>\nfive\n</think>\n\ntwo"})
    with pytest.raises(UserError, match=r"d.jsonl:1: .*same prompt tokens"):
        load_pairs([spec], tokenizer_of("qwen3"), max_length=99)


def test_answers_of_several_contexts_are_no_pair(data):
    def answer(text):
        return [
            {"role": "assistant", "content": "<think>a</think>four"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": text},
        ]

    question = [{"role": "user", "content": "hello"}]
    spec = data({"prompt": question, "chosen": answer("hello"), "rejected": answer("world")})
    with pytest.raises(UserError, match=r"d.jsonl:1: .*no common context"):
        load_pairs([spec], tokenizer_of("qwen3"), max_length=999)
    row = {"prompt": question, "completion": answer("hello"), "label": True}
    with pytest.raises(UserError, match=r"d.jsonl:1: .*no common context"):
        load_feedback([data(row)], tokenizer_of("qwen3"), max_length=999)


def test_a_chat_without_anything_before_the_answer_is_refused(data):
    from copy import deepcopy

    tokenizer = deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = "{{ messages[1]['content'] + eos_token if messages | length > 1 }}"
    spec = data({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "hello"}]})
    with pytest.raises(UserError, match="100% of the tokens would be trained"):
        load_examples([spec], tokenizer, max_length=99)


def test_training_stops_at_the_first_bad_row_and_check_lists_all(data):
    tokenizer = tokenizer_of("chatml")
    spec = data({"text": "hello"}, {"text": 3}, {"text": "four"}, {"prompt": "x", "completion": ""})
    with pytest.raises(UserError, match=r"d.jsonl:2"):
        load_examples([spec], tokenizer, max_length=99)
    encoder = Encoder(tokenizer, token_policy(tokenizer))
    checked = check(spec, encoder, kind="auto", max_length=99, overlong="drop")
    assert [error.split(": ")[0] for error in checked.errors] == [f"{spec}:2", f"{spec}:4"]
    assert (checked.report.rows, checked.report.kept, checked.report.refused) == (4, 2, 2)


def test_nothing_left_is_refused(data):
    with pytest.raises(UserError, match=r"no row is left to train on \(1 longer than 2 tokens\)"):
        load_examples([data({"text": "hello world four"})], tokenizer_of("chatml"), max_length=2)


def test_rows_beyond_one_chunk_keep_their_order(data, monkeypatch):
    monkeypatch.setattr("rung.data.examples.CHUNK", 3)
    words = ["hello", "world", "four", "two", "you", "weather", "Paris"]
    mixed = [{"text": w} if i % 2 else {"prompt": w, "completion": " x"} for i, w in enumerate(words)]
    spec = data(*mixed)
    examples = load_examples([spec], tokenizer_of("chatml"), max_length=99).examples
    tokenizer = tokenizer_of("chatml")
    assert [
        decode(tokenizer, e.token_ids).removesuffix("<|im_end|>").removesuffix(" x") for e in examples
    ] == words
    assert [e.origin for e in examples] == [f"{spec}:{i}" for i in range(1, 8)]
