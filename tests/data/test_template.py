"""Masks: golden files, hand-written answers to random conversations, transformers' own mask, refusals."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from template_families import CHATML, FAMILIES, GOLDEN, QWEN3, tokenizer_of

from rung.data.formats import parse_row
from rung.data.rows import ConversationRow
from rung.data.template import Rendered, render
from rung.data.tokens import decode, encode
from rung.errors import UserError

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden" / "templates"


def chat(*contents: str, system: str | None = None, **more) -> ConversationRow:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    row = parse_row({"messages": messages, **more}, "chat.jsonl:1")
    assert isinstance(row, ConversationRow)
    return row


def text_of(tokenizer, ids) -> str:
    """The text of tokens in mid-text, where no tokenizer drops a leading space."""
    [anchor] = encode(tokenizer, ["x"])
    return decode(tokenizer, [*anchor, *map(int, ids)]).removeprefix(decode(tokenizer, anchor))


def trained_runs(rows: list[Rendered], tokenizer) -> list[str]:
    """The text of every unbroken run of trained tokens, over all rows in order."""
    runs = []
    for row in rows:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row.trained, [False]]).astype(int)))
        runs += [text_of(tokenizer, row.token_ids[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return runs


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_masks(family):
    spec = importlib.util.spec_from_file_location("make_golden_templates", GOLDEN_FOLDER / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.golden(family) == (GOLDEN_FOLDER / f"{family}.txt").read_text(encoding="utf-8")


FRAGMENTS = ["hello", " world", "\n", "\n\n", " ", "   ", "é", "🙂", "[", "](", "four.", "<", "'s", "\t"]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=5).map("".join)
visible_texts = texts.filter(lambda text: text.strip() != "")
conversations = st.lists(st.tuples(visible_texts, texts), min_size=1, max_size=3)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(turns=conversations, system=st.none() | visible_texts)
def test_exactly_the_answers_are_trained(family, turns, system):
    """Whatever is said, the trained text is each answer with its terminator, once."""
    assume(any(answer for _, answer in turns))
    tokenizer = tokenizer_of(family)
    row = chat(*(text for turn in turns for text in turn), system=None if family == "gemma" else system)
    rows = render(row, tokenizer)
    expected = [FAMILIES[family].answer(answer) for _, answer in turns]
    assert sorted(trained_runs(rows, tokenizer)) == sorted(expected)  # forks may change the order
    whole = tokenizer.apply_chat_template(list(row.messages), return_dict=False)
    assert decode(tokenizer, rows[-1].token_ids) == decode(tokenizer, whole)
    if not any(answer[:1].isspace() for _, answer in turns):  # then no token straddles a prompt's end
        assert rows[-1].token_ids.tolist() == whole
    assert family == "qwen3" or len(rows) == 1 or any(answer[:1].isspace() for _, answer in turns)


@settings(max_examples=150, deadline=None)
@given(turns=conversations)
def test_agrees_with_the_mask_of_generation_markers(turns):
    assume(any(answer for _, answer in turns))
    assume(not any(answer[:1].isspace() for _, answer in turns))
    tokenizer = tokenizer_of("chatml_marked")
    row = chat(*(text for turn in turns for text in turn))
    [ours] = render(row, tokenizer)
    theirs = tokenizer.apply_chat_template(
        list(row.messages), return_dict=True, return_assistant_tokens_mask=True
    )
    assert ours.token_ids.tolist() == theirs["input_ids"]
    assert ours.trained.astype(int).tolist() == theirs["assistant_masks"]


@settings(max_examples=150, deadline=None)
@given(turns=conversations)
def test_prompt_tokens_are_what_a_sampler_would_feed(turns):
    """Up to its first trained token, a row of one turn is the tokenised prompt, token by token."""
    question, answer = turns[0]
    assume(answer)
    for family in ("chatml", "zephyr", "phi", "qwen3"):
        tokenizer = tokenizer_of(family)
        [row] = render(chat(question, answer), tokenizer)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_dict=False,
            enable_thinking=False,
        )
        assert row.token_ids[: row.trained.argmax()].tolist() == prompt


def test_a_token_across_the_prompts_end_is_split():
    """`assistant\\n` and an answer that begins with a blank line would share a token."""
    tokenizer = tokenizer_of("chatml")
    row = chat("hello", "\n\nfour")
    [rendered] = render(row, tokenizer)
    whole = tokenizer.apply_chat_template(list(row.messages), return_dict=False)
    assert rendered.token_ids.tolist() != whole
    assert decode(tokenizer, rendered.token_ids) == decode(tokenizer, whole)
    assert trained_runs([rendered], tokenizer) == ["\n\nfour<|im_end|>"]


def test_a_split_that_changes_the_text_is_refused():
    """This tokenizer drops white space at the start of what it encodes, so an answer cannot stand alone."""
    from tokenizers import normalizers

    tokenizer = with_template("chatml", CHATML)
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip(left=True, right=False)
    with pytest.raises(UserError, match=r"chat.jsonl:1.*a token straddles"):
        render(chat("hello", "\n\nfour"), tokenizer)


THOUGHTS = (
    "hello",
    "<think>\none\n</think>\n\nfour",
    "two",
    "<think>\ntwo\n</think>\n\nhello",
    "you",
    "world",
)


def test_rewritten_history_forks_one_row_per_context():
    tokenizer = tokenizer_of("qwen3")
    rows = render(chat(*THOUGHTS), tokenizer)
    texts = [decode(tokenizer, row.token_ids) for row in rows]
    assert [text.count("<think>") for text in texts] == [1, 1, 1]
    assert trained_runs(rows, tokenizer) == [
        THOUGHTS[1] + "<|im_end|>",
        THOUGHTS[3] + "<|im_end|>",
        "world<|im_end|>",
    ]


def test_turns_that_share_a_context_share_a_row():
    """Within one question Qwen3 keeps the reasoning, so a tool call and the answer after it need one row."""
    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    messages = [
        {"role": "user", "content": "weather"},
        {"role": "assistant", "content": "", "reasoning_content": "a tool", "tool_calls": [call]},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "sun", "reasoning_content": "done"},
    ]
    tokenizer = tokenizer_of("qwen3")
    rows = render(parse_row({"messages": messages}, "x"), tokenizer)
    assert trained_runs(rows, tokenizer) == [
        "<think>\na tool\n</think>\n\n<tool_call>\n"
        '{"name": "weather", "arguments": {}}\n</tool_call><|im_end|>',
        "<think>\ndone\n</think>\n\nsun<|im_end|>",
    ]
    assert len(rows) == 1


def test_keep_shows_later_turns_the_reasoning_as_it_was_written():
    tokenizer = tokenizer_of("qwen3")
    rows = render(chat(*THOUGHTS), tokenizer, history_thinking="keep")
    assert len(rows) == 1
    start, end = "<|im_start|>", "<|im_end|>\n"
    spoken = [THOUGHTS[i] if i != 5 else "<think>\n\n</think>\n\nworld" for i in range(6)]
    roles = ("user", "assistant")
    expected = "".join(f"{start}{roles[i % 2]}\n{text}{end}" for i, text in enumerate(spoken))
    assert decode(tokenizer, rows[0].token_ids) == expected
    assert trained_runs(rows, tokenizer)[-1] == "world<|im_end|>"


@pytest.mark.parametrize("family", ["chatml", "phi", "llama3", "llama2", "gemma", "zephyr", "deepseek"])
def test_keep_changes_nothing_where_the_template_keeps(family):
    tokenizer = tokenizer_of(family)
    row = chat("hello", "<think>one</think> four", "two", "world")
    [template], [keep] = (render(row, tokenizer, history_thinking=policy) for policy in ("template", "keep"))
    assert template.token_ids.tolist() == keep.token_ids.tolist()
    assert template.trained.tolist() == keep.trained.tolist()


def test_strip_removes_earlier_reasoning_and_trains_each_once():
    tokenizer = tokenizer_of("chatml")
    rows = render(chat(*THOUGHTS), tokenizer, history_thinking="strip")
    assert trained_runs(rows, tokenizer) == [THOUGHTS[i] + "<|im_end|>" for i in (1, 3, 5)]
    assert [decode(tokenizer, row.token_ids).count("<think>") for row in rows] == [1, 1, 0]
    [one] = render(chat(*THOUGHTS), tokenizer)
    assert decode(tokenizer, one.token_ids).count("<think>") == 2


def test_a_turn_that_says_train_false_is_context():
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "wrong", "train": False},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "four", "weight": 1},
    ]
    tokenizer = tokenizer_of("llama3")
    rows = render(parse_row({"messages": messages}, "x"), tokenizer)
    assert trained_runs(rows, tokenizer) == ["four<|eot_id|>"]
    assert "wrong" in decode(tokenizer, rows[0].token_ids)


def with_template(family: str, template: str):
    from copy import deepcopy

    tokenizer = deepcopy(tokenizer_of(family))
    tokenizer.chat_template = template
    return tokenizer


BROKEN = {
    "no terminator": (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
        "{{ 'assistant: ' if add_generation_prompt }}",
        "without any stop token",
    ),
    "prompt is not a beginning": (
        CHATML.replace(
            "'<|im_start|>assistant\\n' }}\n{%- endif", "'<|im_start|>assistant\\n<think>\\n' }}\n{%- endif"
        ),
        "cannot be masked",
    ),
    "content left out": (
        CHATML.replace("message['content']", "message['content'].split('world')[-1]"),
        r"does not render messages\[1\].content",
    ),
    "refuses": ("{{ raise_exception('no chats today') }}", "no chats today"),
    "broken jinja": ("{{ messages[", "refuses"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_templates_that_cannot_be_masked_are_refused(name):
    template, message = BROKEN[name]
    with pytest.raises(UserError, match=f"chat.jsonl:1.*{message}"):
        render(chat("hello", "hello world four"), with_template("chatml", template))


def test_a_doubled_bos_is_refused():
    template = FAMILIES["llama3"].template.replace("{{- bos_token }}", "{{- bos_token + bos_token }}", 1)
    with pytest.raises(UserError, match="begins with 2 beginning-of-text tokens"):
        render(chat("hello", "four"), with_template("llama3", template))


def test_reasoning_that_the_template_ignores_is_refused():
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "four", "reasoning_content": "because"},
    ]
    row = parse_row({"messages": messages}, "x.jsonl:7")
    with pytest.raises(UserError, match=r"x.jsonl:7.*messages\[1\].reasoning_content"):
        render(row, tokenizer_of("smollm2"))
    [rendered] = render(row, tokenizer_of("qwen3"))
    assert trained_runs([rendered], tokenizer_of("qwen3")) == ["<think>\nbecause\n</think>\n\nfour<|im_end|>"]


def test_an_opener_in_the_generation_prompt_is_not_trained():
    """A thinking model's prompt already holds `<think>`; the model goes on from there."""
    template = QWEN3.replace(
        "{{- '<|im_start|>assistant\\n' }}\n    {%- if enable",
        "{{- '<|im_start|>assistant\\n<think>\\n' }}\n    {%- if enable",
    )
    assert template != QWEN3
    tokenizer = with_template("qwen3", template)
    rows = render(chat("hello", "<think>\none\n</think>\n\nfour"), tokenizer)
    assert trained_runs(rows, tokenizer) == ["one\n</think>\n\nfour<|im_end|>"]


def test_chats_need_a_template():
    with pytest.raises(UserError, match="no chat template"):
        render(chat("hello", "four"), with_template("chatml", ""))


def test_an_opening_assistant_turn_is_context():
    messages = [
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "four"},
    ]
    tokenizer = tokenizer_of("chatml")
    rows = render(parse_row({"messages": messages}, "x"), tokenizer)
    assert trained_runs(rows, tokenizer) == ["four<|im_end|>"]
    with pytest.raises(UserError, match="answers anything"):
        render(parse_row({"messages": messages[:1]}, "x"), tokenizer)
