"""`rung data show` and `rung data check`: what they print and how they exit."""

import json
import subprocess
import sys

import pytest
from rich.console import Console
from template_families import tokenizer_of

from rung.batch import Example
from rung.commands import data as command
from rung.commands.data import DataCheck, DataShow
from rung.data.documents import Encoder
from rung.data.formats import parse_row
from rung.data.show import bracketed, coloured, token_lines
from rung.data.template import render
from rung.data.tokens import token_policy
from rung.errors import UserError

CHAT = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "four é🙂"}]}


@pytest.fixture
def spec(tmp_path, monkeypatch):
    def encoder(model, history_thinking):
        return Encoder(tokenizer_of("chatml"), token_policy(tokenizer_of("chatml")), history_thinking)

    monkeypatch.setattr(command, "encoder_for", encoder)
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [CHAT, {"text": "hello"}]))
    return path


def chat_example() -> Example:
    [one] = render(parse_row(CHAT, "x"), tokenizer_of("chatml"))
    return Example(one.token_ids, one.trained, "x")


def test_brackets_stand_around_what_is_trained():
    assert bracketed(chat_example(), tokenizer_of("chatml")) == (
        "<|im_start|>user⏎\nhello<|im_end|>⏎\n<|im_start|>assistant⏎\n⟦four é🙂<|im_end|>⟧⏎\n"
    )


def test_colours_cover_exactly_the_trained_tokens():
    text = coloured(chat_example(), tokenizer_of("chatml"))
    green = [str(span.style).startswith("black on") for span in text.spans]
    assert green == chat_example().trained.tolist()
    console = Console(force_terminal=True, color_system="truecolor", width=200)
    with console.capture() as captured:
        console.print(text)
    assert "\x1b[" in captured.get()


def test_token_lines():
    lines = token_lines(chat_example(), tokenizer_of("chatml"))
    assert lines[:4] == ["0 '<|im_start|>'", "0 'user'", "0 '\\n'", "0 'hello'"]
    assert lines[-2:] == ["1 '<|im_end|>'", "0 '\\n'"]


def test_show(spec, capsys):
    assert command.show(DataShow(str(spec))) == 0
    shown = capsys.readouterr().out
    assert f"{spec}:1: 19 tokens, 9 trained" in shown
    assert "⟦four é🙂<|im_end|>⟧" in shown and f"{spec}:2" in shown and "\x1b" not in shown
    assert command.show(DataShow(str(spec), first=2, tokens=True)) == 0
    assert capsys.readouterr().out == f"{spec}:2: 2 tokens, 1 trained\n0 'hello'\n1 '<|im_end|>'\n\n"


def test_show_stops_at_a_bad_row(spec):
    spec.write_text('{"text": 3}\n')
    with pytest.raises(UserError, match=r"d.jsonl:1"):
        command.show(DataShow(str(spec)))


def test_check_exits_0_on_good_data_and_1_on_bad(spec, capsys):
    assert command.check(DataCheck(str(spec))) == 0
    assert "trained tokens" in capsys.readouterr().out
    spec.write_text(json.dumps(CHAT) + "\nbroken\n" + '{"text": 3}\n' * 5)
    assert command.check(DataCheck(str(spec), limit=3)) == 1
    shown = capsys.readouterr().out
    assert f"{spec}:2: broken JSON" in shown and f"{spec}:4: text is a number" in shown
    assert f"{spec}:5" not in shown and "3 more" in shown


def test_check_exits_1_when_nothing_is_left(spec, capsys):
    assert command.check(DataCheck(str(spec), max_length=2, kind="pairs")) == 1


def test_settings_import_nothing_heavy():
    heavy = "('torch', 'transformers', 'numpy')"
    code = f"import sys, rung.commands.data; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
