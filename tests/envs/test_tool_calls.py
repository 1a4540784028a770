"""The parser of tool calls: both families, several calls, and any broken text is a sentence, never an exception."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.envs.tool_calls import Broken, Call, parse

ONE = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "2+2"}}\n</tool_call>'
CALL = Call("calculator", {"expression": "2+2"})


@pytest.mark.parametrize(
    "text",
    [
        ONE,
        ONE.removesuffix("</tool_call>"),  # cut off by a stop string
        "I compute.\n" + ONE,
        "<think>Shall I <tool_call> now?</think>" + ONE,
        "thought that the template opened</think>" + ONE,
        '{"name": "calculator", "parameters": {"expression": "2+2"}}',
        '<|python_tag|>{"name": "calculator", "parameters": {"expression": "2+2"}}<|eom_id|>',
        '{"type": "function", "name": "calculator", "parameters": {"expression": "2+2"}}',
        '{"function": "calculator", "parameters": {"expression": "2+2"}}',
        '<tool_call>{"function": {"name": "calculator", "arguments": "{\\"expression\\": \\"2+2\\"}"}}</tool_call>',
    ],
)
def test_one_call_in_every_spelling(text):
    assert parse(text).calls == (CALL,)


def test_several_calls_keep_their_order_and_the_text_beside_them():
    second = ONE.replace("2+2", "3+3")
    turn = parse(f"First {ONE} then {second} done")
    assert turn.calls == (CALL, Call("calculator", {"expression": "3+3"}))
    assert turn.text == "First  then  done"
    llama = '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": 1}}'
    assert parse(llama).calls == (Call("a", {}), Call("b", {"x": 1}))


def test_the_text_before_a_python_tag_is_said_and_that_of_a_bare_call_is_none():
    turn = parse('I compute. <|python_tag|>{"name": "a", "parameters": {}}')
    assert turn.text == "I compute." and turn.calls == (Call("a", {}),)
    assert parse('{"name": "a", "parameters": {}}').text == ""
    assert parse("hidden</think> Answer: 4").text == "Answer: 4"


def test_a_call_that_another_one_follows_before_it_ends_is_two():
    calls = parse(f'<tool_call>{{"name": "a"<tool_call>{json.dumps({"name": "b"})}</tool_call>').calls
    assert isinstance(calls[0], Broken) and calls[1] == Call("b", {})


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 4.",
        "",
        '{"name": "Ada", "age": 36}',
        "{'set': 1}",
        "<think>" + ONE,  # a thought that never ends
        "<think>" + ONE + "</think>no call",
        ONE + "</think>no call",  # the template opened the thought
    ],
)
def test_texts_without_a_call_have_none(text):
    assert parse(text).calls == ()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"name": "calculator", "arguments": {"expression": "2+2"}', "not valid JSON"),
        ("calculator(2+2)", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"name": "a", "arguments": {"x": ' + "9" * 5000 + "}}", "not valid JSON"),
        ("[1, 2]", 'no "name"'),
        ('{"arguments": {}}', 'no "name"'),
        ('{"name": 3}', 'no "name"'),
        ('{"name": "a", "arguments": [1]}', "must be a JSON object"),
        ('{"name": "a", "arguments": "2+2"}', "arguments of a are not valid JSON"),
    ],
)
def test_broken_calls_say_what_is_wrong(body, says):
    (call,) = parse(f"<tool_call>{body}</tool_call>").calls
    assert isinstance(call, Broken) and says in call.problem


def test_text_behind_a_bare_call_is_refused():
    calls = parse('{"name": "a", "parameters": {}} and so the answer is 4').calls
    assert calls[0] == Call("a", {}) and isinstance(calls[1], Broken)


PIECES = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<think>",
        "</think>",
        "<|python_tag|>",
        "{",
        "}",
        '"name"',
        ":",
        '"a"',
        ",",
        ";",
        '"arguments"',
        '"parameters"',
        "[",
        "]",
        "\\",
        '"',
        "1",
        "null",
        "text",
        "\n",
        '{"name":"a","parameters":{}}',
    ]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=80))
def test_no_text_makes_the_parser_raise(text):
    turn = parse(text)
    assert all(isinstance(call, Call | Broken) for call in turn.calls)
    assert "<tool_call>" not in turn.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=10), st.dictionaries(st.text(max_size=8), JSON, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_what_is_read(calls):
    """Round trip, in both families. Texts that hold the tags themselves cannot be written in the tagged form."""
    bodies = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    expected = tuple(Call(name, arguments) for name, arguments in calls)
    if not any("tool_call>" in body or "think>" in body for body in bodies):
        assert parse("".join(f"<tool_call>{body}</tool_call>" for body in bodies)).calls == expected
        assert parse("<|python_tag|>" + "; ".join(bodies)).calls == expected


def test_a_long_text_of_tags_takes_linear_time():
    import time

    start = time.perf_counter()
    for piece in ("<tool_call>", "<think>", "</think><think>", "<tool_call></tool_call>", '{"name":'):
        parse(piece * 20_000)
    assert time.perf_counter() - start < 5
