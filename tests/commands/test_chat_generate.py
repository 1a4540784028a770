"""`rung chat` and `rung generate` on a tiny model folder, their words judged by transformers."""

import io
import json
import shutil

import pytest
import torch
from folder_case import tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from rung.cli import status
from rung.commands.chat import pieces, turns

TEMPLATE = (
    "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('the user speaks first') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'][0] }}{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>a{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_model("llama", vocab_size=260, max_position_embeddings=128).save_pretrained(path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def rung(capsys, monkeypatch):
    """Run a command line; `(status, out, error)`."""

    def run(*words, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = status([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def answer_of_transformers(folder, text, count=8, stop=2):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=stop,
        pad_token_id=0,
    )  # fmt: skip
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def asked(*contents, roles="ua"):
    said = [f"<|im_start|>{roles[i % len(roles)]}{content}<|im_end|>" for i, content in enumerate(contents)]
    return "".join(said) + "<|im_start|>a"


GREEDY = ("--max-new-tokens", "8", "--temperature", "0", "--precision", "fp32")  # as transformers is asked


# ---- chat ----


def test_a_piped_conversation_remembers_until_it_is_told_to_forget(folder, rung):
    code, out, _ = rung("chat", folder, *GREEDY, stdin="hello\nand then?\n/new\nand then?\n\nnever read\n")
    first = answer_of_transformers(folder, asked("hello"))
    second = answer_of_transformers(folder, asked("hello", first, "and then?"))
    fresh = answer_of_transformers(folder, asked("and then?"))
    assert second != fresh
    assert (code, out) == (0, f"{first}\n{second}\n{fresh}\n")


def test_a_system_message_opens_every_conversation(folder, rung):
    code, out, _ = rung("chat", folder, *GREEDY, "--system", "be brief", stdin="hi\n/new\nhi\n")
    expected = answer_of_transformers(folder, asked("be brief", "hi", roles="su"))
    assert expected != answer_of_transformers(folder, asked("hi"))
    assert (code, out) == (0, f"{expected}\n{expected}\n")


def test_same_seed_same_answers(folder, rung):
    def say(seed):
        return rung("chat", folder, "--max-new-tokens", 8, "--seed", seed, stdin="hi\nhi\n")[1]

    assert say(1) == say(1) != say(2)
    out = rung("chat", folder, "--max-new-tokens", 8, stdin="hi\n/new\nhi\n")[1]
    first, second = out[: len(out) // 2], out[len(out) // 2 :]
    assert first != second, "each turn throws its own dice"


def test_a_full_context_is_said_and_an_answer_never_outgrows_it(folder, rung):
    """118 characters and five tokens of frame leave room for five of 128, then for none."""
    long = "x" * 118
    code, out, error = rung(
        "chat", folder, "--max-new-tokens", 50, "--temperature", 0, stdin=f"{long}\nmore\n"
    )
    assert code == 2
    assert out == answer_of_transformers(folder, asked(long), count=5) + "\n"
    assert "filled the model's context of 128 tokens. Begin anew with /new." in error
    code, out, error = rung("chat", folder, stdin="x" * 123 + "\n")
    assert (code, out) == (2, "")
    assert "filled the model's context of 128 tokens" in error


def test_a_model_without_template_cannot_chat_but_can_continue(folder, rung, tmp_path):
    tiny_model("llama", vocab_size=260).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    for command in (("chat", tmp_path), ("generate", tmp_path, "--prompt", "hi")):
        code, out, error = rung(*command, stdin="hi\n")
        assert (code, out) == (2, "")
        assert f"rung generate {tmp_path} --no-chat" in error
    code, out, _ = rung("generate", tmp_path, "--prompt", "hi", "--no-chat", *GREEDY)
    assert (code, out) == (0, answer_of_transformers(tmp_path, "hi") + "\n")


def test_turns_are_lines_until_an_empty_one_or_the_end(monkeypatch):
    for text, expected in (("a\n b \n\nc\n", ["a", "b"]), ("a", ["a"]), ("", []), ("  \nb\n", [])):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert list(turns()) == expected


def test_at_a_terminal_the_end_of_input_ends_the_talk(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("hello\n"))
    assert list(turns()) == ["hello"]
    assert capsys.readouterr().out == "> > \n"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_no_half_character_is_shown_and_none_is_kept_back(text):
    """One token a byte: a piece is there exactly when its character is whole."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text.encode())
    shown = [piece for piece in pieces(tokenizer, ids) if piece]
    if "\ufffd" not in text:
        assert shown == list(text)
    assert "".join(shown) == text


def test_pieces_come_before_the_next_token_is_asked_for():
    tokenizer = tiny_tokenizer()
    asked_for = []

    def one_by_one():
        for id in tokenizer("aé", add_special_tokens=False).input_ids:
            asked_for.append(id)
            yield id

    stream = pieces(tokenizer, one_by_one())
    assert (next(stream), len(asked_for)) == ("a", 1)
    assert (next(stream), len(asked_for)) == ("é", 3)


def test_a_character_that_never_ends_is_shown_as_broken_at_the_end():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("aé", add_special_tokens=False).input_ids[:-1]
    assert "".join(pieces(tokenizer, [*ids, 2])) == "a\ufffd"


# ---- generate ----


def test_one_prompt_prints_its_answer(folder, rung):
    code, out, _ = rung("generate", folder, "--prompt", "hello", *GREEDY)
    assert (code, out) == (0, answer_of_transformers(folder, asked("hello")) + "\n")
    code, out, _ = rung("generate", folder, *GREEDY, stdin="hello")
    assert (code, out) == (0, answer_of_transformers(folder, asked("hello")) + "\n")


def test_stop_ids_are_added_to_the_models_own(folder, rung):
    free = answer_of_transformers(folder, asked("hello"))
    stop = tiny_tokenizer()(free, add_special_tokens=False).input_ids[1]
    expected = answer_of_transformers(folder, asked("hello"), stop=[2, stop])
    assert expected != free
    _, out, _ = rung("generate", folder, "--prompt", "hello", "--stop", stop, *GREEDY)
    assert out == expected + "\n"


def test_the_generation_config_stops_too(folder, rung, tmp_path):
    free = answer_of_transformers(folder, asked("hello"))
    stop = tiny_tokenizer()(free, add_special_tokens=False).input_ids[1]
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, stop]}))
    expected = answer_of_transformers(folder, asked("hello"), stop=[2, stop])
    for words, stdin in ((("generate", "--prompt", "hello"), ""), (("chat",), "hello\n")):
        _, out, _ = rung(words[0], tmp_path / "model", *words[1:], *GREEDY, stdin=stdin)
        assert out == expected + "\n"


def test_a_file_gives_one_json_object_a_line_in_order_whatever_the_batch(folder, rung, tmp_path):
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    separator = "line\u2028separator"  # a line break to str.splitlines, not to JSON
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "né"}, {"messages": talk}, {"prompt": separator}, {"prompt": talk[:1]}]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text(text + "\n\n", encoding="utf-8")
    outputs = [rung("generate", folder, "--file", file, "--batch", n, *GREEDY)[1] for n in (1, 3, 32)]
    assert outputs[0] == outputs[1] == outputs[2]
    assert "né" in outputs[0], "readable as it stands"
    lines = [json.loads(line) for line in outputs[0].strip("\n").split("\n")]
    texts = [asked("né"), asked("a", "b", "c"), asked(separator), asked("a")]
    assert [line["completion"] for line in lines] == [answer_of_transformers(folder, t) for t in texts]
    user = [[{"role": "user", "content": content}] for content in ("né", separator)]
    assert [line["prompt"] for line in lines] == [user[0], talk, user[1], talk[:1]]


def test_both_backends_say_what_transformers_says(folder, rung):
    expected = answer_of_transformers(folder, asked("hello"))
    for backend in ("rung", "hf"):
        code, out, _ = rung("generate", folder, "--prompt", "hello", "--backend", backend, *GREEDY)
        assert (code, out) == (0, expected + "\n")


def test_both_backends_throw_the_same_dice_and_report_the_same_numbers(folder, rung):
    """Every option that shapes the distribution, two samples of two prompts, one JSON object an answer."""
    words = ["--prompt", "a", "b", "--samples", 2, "--logprobs", "--max-new-tokens", 8, "--min-new-tokens", 5]
    cuts = [
        "--temperature",
        0.8,
        "--top-k",
        50,
        "--top-p",
        0.9,
        "--min-p",
        0.01,
        "--repetition-penalty",
        1.2,
        "--precision",
        "fp32",
    ]
    ours, theirs = (
        [
            json.loads(line)
            for line in rung("generate", folder, *words, *cuts, "--backend", backend)[1].split("\n")[:-1]
        ]
        for backend in ("rung", "hf")
    )
    assert [line["sample"] for line in ours] == [0, 1, 0, 1]
    assert len({tuple(line["token_ids"]) for line in ours}) == 4
    for one, other in zip(ours, theirs, strict=True):
        assert one["token_ids"] == other["token_ids"] and one["finish"] == other["finish"] == "length"
        for name in ("policy_logprob", "sampler_logprob"):
            assert one[name] == pytest.approx(other[name], abs=2e-5)
        assert one["sampler_logprob"] != pytest.approx(one["policy_logprob"], abs=0.1), "two distributions"
        assert len(one["token_ids"]) == len(one["sampler_logprob"]) == 8


def test_a_stop_string_ends_an_answer_and_is_not_printed(folder, rung):
    free = answer_of_transformers(folder, asked("hello"))
    stop = free[2:4]
    expected = free[: free.find(stop)]
    _, out, _ = rung("generate", folder, "--prompt", "hello", "--stop-strings", stop, *GREEDY)
    assert out == expected + "\n"
    line = rung("generate", folder, "--prompt", "hello", "--stop-strings", stop, "--logprobs", *GREEDY)[1]
    assert json.loads(line)["finish"] == "stop"


def test_answers_do_not_depend_on_how_many_are_sampled_together(folder, rung):
    words = ["--prompt", "a", "bc", "def", "--samples", 2, "--max-new-tokens", 8]
    assert len({rung("generate", folder, *words, "--batch", n)[1] for n in (1, 2, 32)}) == 1


def test_equal_prompts_in_different_batches_throw_their_own_dice(folder, rung):
    words = ["--prompt", *["hello"] * 6]
    _, out, _ = rung("generate", folder, *words, "--batch", 2, "--max-new-tokens", 8)
    assert len(set(out.strip().split("\n"))) == 6


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', "prompts.jsonl:2: broken JSON"),
        ('{"prompt": "a"}\n["b"]\n', "prompts.jsonl:2: the row is not a JSON object"),
        ('{"prompt": "a"}\n{"text": "b"}\n', "prompts.jsonl:2: has no `prompt` and no `messages`"),
        ('{"prompt": "a"}\n{"prompt": ""}\n', "prompts.jsonl:2: has no `prompt`"),
        ('{"prompt": 3}\n', "prompts.jsonl:1: prompt is a number"),
        ('{"messages": [{"role": "sur", "content": "a"}]}\n', "messages[0].role is 'sur'"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', "the user speaks first"),
        ("", "holds no rows"),
        ('{"prompt": "a"}\n{"prompt": "%s"}\n' % ("x" * 128), "Prompt 2 of 2 has 133 tokens"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_before_anything_is_printed(text, message, folder, rung, tmp_path):
    file = write(tmp_path / "prompts.jsonl", text)
    code, out, error = rung("generate", folder, "--file", file, "--batch", 1, *GREEDY)
    assert (code, out) == (2, "")
    assert message in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--file", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        ([], "No prompt was given"),
        (["--prompt", ""], "No prompt was given"),
        (["--prompt", "a", "--batch", "0"], "--batch 0"),
        (["--prompt", "a", "--samples", "0"], "--samples 0"),
        (["--prompt", "a", "--min-p", "2"], "min-p 2"),
        (["--prompt", "a", "--stop-strings", ""], "A stop string is empty"),
        (["--prompt", "a", "--top-p", "0"], "top-p 0"),
        (["--prompt", "a", "--max-new-tokens", "1000"], "model's context of 128"),
    ],
)
def test_what_cannot_be_asked_for_exits_2(words, message, folder, rung):
    code, out, error = rung("generate", folder, *words)
    assert (code, out) == (2, "")
    assert message in error


def test_plain_text_begins_as_its_tokenizer_begins_texts_and_once(folder, rung, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    expected = answer_of_transformers(folder, "<s>hi")
    assert expected != answer_of_transformers(folder, "hi")
    for text in ("hi", "<s>hi"):
        code, out, _ = rung("generate", tmp_path / "model", "--prompt", text, "--no-chat", *GREEDY)
        assert (code, out) == (0, expected + "\n")
