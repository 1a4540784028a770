"""The tokens of a folder without transformers: the same as with it, whatever names tokens that tokenizer.json lacks."""

import json

import pytest
from folder_case import tiny_tokenizer
from transformers import AutoTokenizer

from rung.errors import UserError
from rung.models.tokens import strings, tokens_in


def asked(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.get_vocab(), bool(tokenizer.chat_template)


def changed(file, **entries):
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**known, **entries}))


def test_a_folder_as_it_is_saved(tmp_path, monkeypatch):
    tiny_tokenizer(extra=3).save_pretrained(tmp_path)
    expected = asked(tmp_path)
    monkeypatch.setattr("rung.models.tokens.load_tokenizer", None)  # is not asked
    assert tokens_in(tmp_path) == expected
    assert expected[0]["<extra2>"] == 262 and expected[1]
    (tmp_path / "chat_template.jinja").unlink()
    assert tokens_in(tmp_path) == (expected[0], False) == asked(tmp_path)
    changed(tmp_path / "tokenizer_config.json", chat_template="{{ messages }}")
    assert tokens_in(tmp_path) == (expected[0], True) == asked(tmp_path)


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("tokenizer_config.json", dict(unk_token="<new>")),
        ("tokenizer_config.json", dict(unk_token={"content": "<new>", "__type": "AddedToken"})),
        ("tokenizer_config.json", dict(extra_special_tokens=["<s>", "<new>"])),
        ("tokenizer_config.json", dict(added_tokens_decoder={"260": {"content": "<new>", "special": True}})),
    ],
)
def test_a_token_that_only_another_file_names(tmp_path, file, entries):
    tiny_tokenizer().save_pretrained(tmp_path)
    changed(tmp_path / file, **entries)
    expected = asked(tmp_path)
    assert tokens_in(tmp_path) == expected and "<new>" in expected[0]


@pytest.mark.parametrize(
    ("file", "entries"),
    [("special_tokens_map.json", dict(unk_token="<new>")), ("added_tokens.json", {"<new>": 260})],
)
def test_of_other_files_that_may_add_tokens_transformers_judges(tmp_path, file, entries, monkeypatch):
    tiny_tokenizer().save_pretrained(tmp_path)
    changed(tmp_path / file, **entries)
    asked_for = []

    def load(name):
        asked_for.append(name)
        return AutoTokenizer.from_pretrained(name)

    monkeypatch.setattr("rung.models.tokens.load_tokenizer", load)
    assert tokens_in(tmp_path) == asked(tmp_path)
    assert asked_for == [str(tmp_path)]


def test_names_in_all_the_shapes_they_come_in():
    assert list(strings({"7": {"content": "<a>", "special": True}, "8": {"content": "<b>"}})) == [
        "<a>",
        "<b>",
    ]
    assert list(strings(["<a>", {"content": "<b>"}])) == ["<a>", "<b>"]
    assert list(strings(None)) == list(strings(True)) == []


def test_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match="has no tokenizer"):
        tokens_in(tmp_path)
