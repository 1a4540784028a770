"""Every form of row, hand-written, and every refusal with the file, row and key it must name."""

import pytest

from rung.data.formats import parse_row
from rung.data.rows import CompletionRow, ConversationRow, LabelRow, PreferenceRow, TextRow
from rung.errors import UserError

U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
B = {"role": "assistant", "content": "no"}
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def parse(**row):
    return parse_row(row, "d.jsonl:3")


def test_messages_keep_extra_columns_and_tools():
    row = parse(messages=[U, A], tools='[{"name": "f"}]', difficulty=3)
    assert row == ConversationRow((U, A), "d.jsonl:3", ({"name": "f"},), {"difficulty": 3})


def test_content_parts_are_joined_and_nulls_dropped():
    parts = [{"type": "text", "text": "a", "image": None}, {"type": "text", "text": "b"}]
    row = parse(messages=[{"role": "user", "content": parts, "tool_calls": None}, A], tools=None)
    assert row.messages[0] == {"role": "user", "content": "ab"}


def test_tool_calls_get_objects_as_arguments():
    row = parse(messages=[U, {"role": "assistant", "content": None, "tool_calls": [CALL]}])
    assert row.messages[1]["content"] == ""
    assert row.messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}


def test_train_flags():
    messages = [U, {**A, "weight": 0}, U, {**A, "train": False}, U, {**A, "weight": 1, "train": True}]
    flags = [
        message.get("train")
        for message in parse(messages=messages).messages
        if message["role"] == "assistant"
    ]
    assert flags == [False, False, None]


def test_sharegpt_with_system_and_tool_turns():
    turns = [
        {"from": "human", "value": "hi"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "yo", "weight": None},
    ]
    row = parse(conversations=turns, system="be brief", id=7)
    assert [message["role"] for message in row.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert row.messages[2]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert row.extra == {"id": 7}


def test_alpaca_and_question_answer_become_chats():
    alpaca = parse(instruction="add", input="1 2", output="3")
    assert [m["content"] for m in alpaca.messages] == ["add\n\n1 2", "3"]
    assert [m["content"] for m in parse(instruction="hi", input="", output="yo").messages] == ["hi", "yo"]
    assert parse(question="hi", answer="yo").messages == (U, A)


def test_completion_of_strings_stays_strings_and_mixtures_become_messages():
    assert parse(prompt="hi", completion="yo", score=1) == CompletionRow(
        "hi", "yo", "d.jsonl:3", extra={"score": 1}
    )
    assert parse(prompt=[U], completion="yo") == CompletionRow((U,), (A,), "d.jsonl:3")
    assert parse(prompt="hi", completion=[A]) == CompletionRow((U,), (A,), "d.jsonl:3")


def test_text_and_label():
    assert parse(text="abc", label=3) == TextRow("abc", "d.jsonl:3", {"label": 3})
    assert parse(prompt="hi", completion="yo", label=False) == LabelRow("hi", "yo", False, "d.jsonl:3")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [U], "chosen": [A], "rejected": [B]},
        {"prompt": "hi", "chosen": [A], "rejected": [B]},
        {"prompt": [U], "chosen": "yo", "rejected": "no"},
        {"chosen": [U, A], "rejected": [U, B]},
        {"prompt": "hi", "chosen": [U, A], "rejected": [U, B]},
        {"prompt": [U], "chosen": [U, A], "rejected": [U, B]},
        {"chosen": "\n\nHuman: hi\n\nAssistant: yo", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
    ],
)
def test_preferences_as_messages_in_all_their_spellings(row):
    assert parse(**row) == PreferenceRow((U,), (A,), (B,), "d.jsonl:3")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q: ", "chosen": "yes", "rejected": "no"}, ("Q: ", "yes", "no")),
        ({"prompt": "Q: ", "chosen": "Q: yes", "rejected": "Q: no"}, ("Q: ", "yes", "no")),
        ({"chosen": "Is it? It was.", "rejected": "Is it? It wasn't."}, ("Is it? It", " was.", " wasn't.")),
        ({"chosen": "Q?\nA: b c", "rejected": "Q?\nA: d"}, ("Q?\nA:", " b c", " d")),
        ({"chosen": "Q?\n\nyes\n", "rejected": "Q?\n\nyes"}, ("Q?", "\n\nyes\n", "\n\nyes")),
    ],
)
def test_preferences_as_strings_part_at_a_word(row, expected):
    parsed = parse(**row)
    assert (parsed.prompt, parsed.chosen, parsed.rejected) == expected


def test_multi_turn_dialogues_share_their_history():
    history = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
    row = parse(chosen=history + "\n\nAssistant: d", rejected=history + "\n\nAssistant: e")
    assert [m["content"] for m in row.prompt] == ["a", "b", "c"]
    assert (row.chosen[0]["content"], row.rejected[0]["content"]) == ("d", "e")


BAD = [
    ({"messages": [{"role": "bot", "content": "x"}]}, r"messages\[0\].role is 'bot'.*user, assistant"),
    ({"messages": [{"content": "x"}]}, r"messages\[0\].role is missing"),
    ({"messages": "hello"}, "messages is a string"),
    ({"messages": []}, "messages is an empty list"),
    ({"messages": ["hello"]}, r"messages\[0\] is a string"),
    ({"messages": [U, {"role": "assistant", "content": 3}]}, r"messages\[1\].content is a number"),
    ({"messages": [U, {"role": "assistant"}]}, r"messages\[1\].content is null"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}, A]}, "of type 'image'"),
    ({"messages": [U]}, "no assistant turn"),
    ({"messages": [U, {**A, "content": ""}]}, "only empty assistant turns"),
    ({"messages": [U, {**A, "train": False}]}, "trains no assistant turn"),
    ({"messages": [U, {**A, "train": 1}]}, r"messages\[1\].train is a number"),
    ({"messages": [U, {**A, "weight": 0.5}]}, r"messages\[1\].weight is 0.5"),
    ({"messages": [{**U, "train": True}, A]}, r"messages\[0\].train"),
    ({"messages": [U, A], "tools": "{"}, "tools is a string that is not JSON"),
    ({"messages": [U, A], "tools": {"name": "f"}}, "tools is an object"),
    (
        {"messages": [U, {**A, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "arguments is not JSON",
    ),
    ({"conversations": [{"from": "alien", "value": "x"}]}, r"conversations\[0\].from is 'alien'"),
    ({"conversations": [{"from": "human", "value": None}]}, r"conversations\[0\].value is null"),
    ({"prompt": "hi", "completion": ""}, "completion is empty"),
    ({"prompt": "", "completion": "yo"}, "prompt is empty"),
    ({"prompt": 3, "completion": "yo"}, "prompt is a number"),
    ({"prompt": [U], "completion": [U]}, "completion must start and end with an assistant"),
    ({"prompt": [U], "completion": [{**A, "content": ""}]}, "completion is an empty answer"),
    ({"prompt": "hi", "completion": "yo", "label": 1}, "label is 1"),
    ({"prompt": "hi", "completion": "yo", "label": "true"}, "label is 'true'"),
    ({"prompt": "hi"}, "columns .prompt. are of no known form"),
    ({"txt": "hi"}, "columns .txt. are of no known form"),
    ({}, "columns .none."),
    ({"text": ["hi"]}, "text is a list"),
    ({"chosen": [U, A], "rejected": [U, A]}, "rejected equals chosen"),
    ({"chosen": [U, A], "rejected": [{**U, "content": "other"}, B]}, "answer different prompts"),
    ({"prompt": "bye", "chosen": [U, A], "rejected": [U, B]}, "prompt differs"),
    ({"chosen": [U, A], "rejected": [U, A, U, B]}, "chosen holds nothing"),
    ({"chosen": "yes", "rejected": [U, B]}, "rejected is a list"),
    ({"chosen": "yes", "rejected": "no"}, "shares no beginning"),
    ({"prompt": "yo", "chosen": "yo", "rejected": "yo no"}, "chosen holds the prompt and no answer"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_refusals_name_file_row_and_key(row, message):
    with pytest.raises(UserError, match=rf"^d\.jsonl:3: .*{message}"):
        parse_row(row, "d.jsonl:3")
