"""`rung eval` and its family on tiny models, through the command line; perplexity judged by transformers."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rung.batch import Example
from rung.cli import command_name, status
from rung.commands.evaluate import Eval, command_line, slug
from rung.config import parse
from rung.envs.environment import Task
from rung.errors import UserError
from rung.pipelines import evaluate_text
from rung.pipelines.evaluate_contamination import contamination, memorised, without_frame, words_of_rows
from rung.pipelines.evaluate_text import Reader, windows

ENV = Path(__file__).parent.parent / "pipelines" / "eval_env.py"
FAST = ("--max-tokens", "6", "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def rung(capsys):
    """Run a command line; `(status, out, error)`."""

    def run(*words):
        code = status([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def other_folder(tiny_folder, tmp_path_factory):
    """The same model with other weights."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(tiny_folder, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(tiny_folder, other_folder, tmp_path_factory):
    """Two models evaluated by one command."""
    out = tmp_path_factory.mktemp("evals")
    spec = f"{ENV}:make?kind=letters"
    code = status(["eval", str(tiny_folder), str(other_folder), "--env", spec, "--samples", "4", "--strict",
                   "--out", str(out), *FAST])  # fmt: skip
    assert code == 0
    return out


def folders(results):
    return sorted(path.parent for path in results.glob("*/result.json"))


# ---- rung eval ----


def test_two_models_are_compared_and_plotted(results, rung, tiny_folder, other_folder):
    spec = f"{ENV}:make?kind=letters"
    code, out, _ = rung(
        "eval", tiny_folder, other_folder, "--env", spec, "--samples", 4, "--strict", "--out", results, *FAST
    )
    assert code == 0, "what is finished is shown again"
    for text in (
        "accuracy",
        "95 % interval",
        "pass@k",
        "self-BLEU",
        "tokens sampled",
        "cut off at 6 tokens",
        "k*",
    ):
        assert text in out, text
    assert re.search(rf"other - {tiny_folder.name}: [+-]\d+\.\d points .* of 5\)", out)
    assert (results / "pass-at-k.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing was given for models"),
        (("m",), "add --env SPEC"),
        (("m", "--env", "arithmetic", "--samples", "0"), "at least 1"),
        (("m", "m/", "--env", "arithmetic"), "given twice"),
        (("m", "--env", "aritmetic"), "arithmetic"),
        (("no-such-model", "--env", "arithmetic"), "no model rung knows"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(words, message, rung, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = rung("eval", *words)
    assert code == 2 and message in error
    assert list(tmp_path.iterdir()) == []


def test_a_command_of_two_words_is_not_a_model():
    assert command_name(["eval", "show", "x"]) == ("eval show", ["x"])
    assert command_name(["eval", "./show"]) == ("eval", ["./show"])


def test_the_command_that_goes_on_is_the_one_that_was_given():
    words = [
        "a b",
        "m",
        "--env",
        "rows:x y.jsonl",
        "--samples",
        "3",
        "--no-plot",
        "--strict",
        "--tasks",
        "7",
        "--top-p",
        "0.9",
    ]
    settings = parse(Eval, words, "rung eval")
    again = shlex.split(command_line(settings))
    assert again[:2] == ["rung", "eval"] and parse(Eval, again[2:], "rung eval") == settings


@given(st.text(min_size=1, max_size=40))
def test_a_slug_is_one_folder_inside(name):
    made = slug(name)
    assert made and "/" not in made and made not in (".", "..") and not made.startswith("-")


def test_an_endpoint_that_dies_leaves_what_it_said_and_the_command_to_go_on(rung, tmp_path, monkeypatch):
    from rung import endpoint

    monkeypatch.setattr(endpoint, "PAUSES", ())
    asked = []

    def once(self, path, content):
        asked.append(content)
        if len(asked) > 3:
            raise ConnectionRefusedError("nobody there")
        return {"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}

    monkeypatch.setattr(endpoint.Endpoint, "_once", once)
    words = (
        "eval",
        "http://127.0.0.1:1/v1",
        "--name",
        "m",
        "--env",
        f"{ENV}:make",
        "--concurrency",
        1,
        "--out",
        tmp_path,
    )
    code, out, error = rung(*words)
    assert code == 1 and out == ""
    assert "3 of 5 answers are kept" in error and "nobody there" in error
    assert (
        f"rung eval http://127.0.0.1:1/v1 --env {ENV}:make --out {tmp_path} --name m --concurrency 1" in error
    )
    asked.clear()
    code, out, _ = rung(*words)
    assert code == 0 and len(asked) == 2, "the two that were missing"


# ---- show, rescore, diff ----


def test_show_counts_and_shows_one_sample(results, rung):
    code, out, _ = rung("eval", "show", results)
    assert code == 0 and "accuracy" in out and "batch_invariant True" in out and "model " in out
    first = folders(results)[0]
    row = json.loads((first / "samples.jsonl").read_text().splitlines()[6])
    code, out, _ = rung("eval", "show", first, "--sample", f"{row['task']}/{row['index']}")
    assert code == 0 and row["task"] == "letters:1" and row["index"] == 2
    assert "<|im_start|>user" in out and "Score(" in out and row["finish"] in out
    code, _, error = rung("eval", "show", first, "--sample", "letters:1/4")
    assert code == 2 and "indices 0 to 3" in error


def test_rescore_counts_the_same_and_another_reward_judges_anew(results, rung, tmp_path):
    first = folders(results)[0]
    code, out, _ = rung("eval", "rescore", first)
    assert code == 0 and "the numbers are those that were reported" in out
    samples = [json.loads(line) for line in (first / "samples.jsonl").read_text().splitlines()]
    wrong = sum(row["verdict"]["score"] < 1 for row in samples)
    code, out, _ = rung("eval", "rescore", first, "--reward", f"{ENV}:other_reward")
    assert code == 0 and f"{wrong} of 20 verdicts changed" in out and "100.0%" in out
    changed = tmp_path / "changed"
    shutil.copytree(first, changed)
    content = json.loads((changed / "result.json").read_text())
    content["numbers"]["worst"] = 0.999
    (changed / "result.json").write_text(json.dumps(content))
    code, out, _ = rung("eval", "rescore", changed)
    assert code == 1 and "are others" in out


def test_diff_names_the_first_cause(results, rung):
    first, second = folders(results)
    assert rung("eval", "diff", first, first)[:2] == (0, "the same evaluation with the same outcome\n")
    code, out, _ = rung("eval", "diff", first, second)
    assert code == 1 and out.startswith("model.digest: ")


# ---- text ----

TEXTS = ["the first text, of some length", "a second one \u00e9\u00e8", "x" * 300, "third"]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def by_transformers(folder, text):
    """Sum of log p of all tokens but the first, where the context of 256 holds them."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    total = 0.0
    for start in range(0, len(ids) - 1, 255):
        part = ids[start : start + 256]
        with torch.no_grad():
            logprobs = model(part[None]).logits[0].float().log_softmax(-1)
        total += float(logprobs[:-1].gather(1, part[1:, None]).sum())
    return total, len(ids)


def test_perplexity_is_what_transformers_says(tiny_folder, other_folder, text_file, rung):
    code, out, _ = rung(
        "eval",
        "text",
        tiny_folder,
        other_folder,
        "--file",
        text_file,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    )
    assert code == 0
    for folder in (tiny_folder, other_folder):
        parts = [by_transformers(folder, text) for text in TEXTS]
        total, tokens = sum(t for t, _ in parts), sum(n - 1 for _, n in parts)
        size = sum(len(text.encode()) - 1 for text in TEXTS)  # a byte a token, and the first is not scored
        row = next(line for line in out.splitlines() if line.startswith(str(folder)))
        assert float(row.split()[1]) == pytest.approx(-total / math.log(2) / size, abs=1e-4)
        assert float(row.split()[5]) == pytest.approx(math.exp(-total / tokens), rel=1e-4)
        assert row.split()[-2:] == ["4", str(tokens)]
    assert "bits per byte by document" in out


def test_a_model_is_no_distance_from_itself_and_some_from_another(
    tiny_folder, other_folder, text_file, rung, tmp_path
):
    twin = tmp_path / "twin"
    shutil.copytree(tiny_folder, twin)
    words = (
        "--file",
        text_file,
        "--base",
        tiny_folder,
        "--kl-tokens",
        8,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    )
    code, out, _ = rung("eval", "text", twin, other_folder, *words)
    same, other = re.findall(r"on its own samples: ([\d.e-]+)", out)
    assert code == 0 and float(same) == 0.0 and float(other) > 0.001
    change = re.search(rf"{re.escape(str(twin))} - .* by document: (\S+)", out)
    assert float(change[1]) == 0.0


def test_the_distance_is_from_the_base_to_the_model(tiny_folder, other_folder, text_file, monkeypatch):
    monkeypatch.setattr(evaluate_text, "kl_from_samples", lambda new, base, seed: (new, base))
    monkeypatch.setattr(Reader, "logprobs", lambda self, examples: self.name)
    new, base = (Reader.open(str(folder), "fp32", "cpu") for folder in (other_folder, tiny_folder))
    rows = evaluate_text.read_documents(str(text_file))
    assert evaluate_text.kl_to_base(new, base, rows, tokens=4) == (str(other_folder), str(tiny_folder))


def test_chats_are_scored_where_the_assistant_speaks(tiny_folder, rows_file, rung):
    code, out, _ = rung("eval", "text", tiny_folder, "--file", rows_file, "--documents", 7, "--base", tiny_folder,
                        "--precision", "fp32", "--device", "cpu")  # fmt: skip
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()[:7]]
    spoken = sum(len(row["messages"][1]["content"]) + 1 for row in rows)  # and the token that ends the turn
    assert code == 0 and out.splitlines()[1].split()[-2:] == ["7", str(spoken)]


def test_pairs_are_no_text(tiny_folder, rung, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "p", "chosen": "c", "rejected": "r"}) + "\n")
    code, _, error = rung("eval", "text", tiny_folder, "--file", file)
    assert code == 2 and "is a pair" in error and "pairs.jsonl:1" in error


@given(st.integers(0, 60), st.integers(2, 9))
def test_windows_score_every_token_but_the_first_once_and_in_order(count, width):
    ids = list(range(count))
    pieces = windows(ids, width, "x")
    assert [int(i) for piece in pieces for i in piece.token_ids[piece.trained]] == ids[1:]
    assert all(2 <= len(piece) <= width for piece in pieces)


def test_logprobs_do_not_depend_on_what_is_packed_beside(tiny_folder):
    reader = Reader.open(str(tiny_folder), "fp32", "cpu")
    examples = [Example(np.arange(4, 4 + n, dtype=np.int32), np.arange(n) > 0, "x") for n in (5, 30, 2, 17)]
    together = reader.logprobs(examples)
    for example, row in zip(examples, together, strict=True):
        assert np.allclose(reader.logprobs([example])[0], row, atol=1e-5)


# ---- contamination ----

QUESTION = (
    "A farmer from village {i} counts {j} geese, {k} ducks and nine red hens before breakfast on day {i}"
)
REQUEST = "Think it over and write the final answer on the last line of all, after the word Answer: please"


def tasks(count=6):
    texts = [f"{QUESTION.format(i=i, j=i * 7, k=i + 3)}. {REQUEST}" for i in range(count)]
    return [Task(f"q:{i}", ({"role": "user", "content": text},), i) for i, text in enumerate(texts)]


def test_planted_tasks_are_found_and_a_shared_request_is_not(tmp_path):
    file = tmp_path / "train.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"Another thing. {REQUEST}"}]}]
    rows += [{"text": f"seen: {QUESTION.format(i=i, j=i * 7, k=i + 3).upper()}!"} for i in (1, 4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = contamination(str(file), tasks())
    assert [o.covered > 0.9 for o in found.contamination.overlaps] == [i in (1, 4) for i in range(6)]
    assert (found.contamination.found, found.contamination.unknown) == (2, 0)
    logprobs = [np.array([-1.0 if i in (1, 4) else -5.0] * 10) for i in range(6)]
    seen = memorised(found, logprobs)
    assert (seen.found, seen.clean, seen.auc) == (-1.0, -5.0, 1.0)
    with pytest.raises(UserError, match="2 and 0"):
        memorised(found, [each if i in (1, 4) else np.empty(0) for i, each in enumerate(logprobs)])


def test_the_command_lists_what_it_found(tmp_path, rung, tiny_folder):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": t.messages[0]["content"], "answer": "1"}) + "\n" for t in tasks(24))
    )
    code, out, _ = rung("eval", "contamination", "--train", rows, "--env", f"rows:{rows}", "--tasks", 4)
    assert code == 0 and "4 of 4 tasks share" in out and "100% of rows/rows:test:" in out
    half = tmp_path / "half.jsonl"
    half.write_text("".join(rows.read_text().splitlines(keepends=True)[:12]))
    words = ("--train", half, "--env", f"rows:{rows}", "--tasks", 6, "--n", 14, "--model", tiny_folder)
    code, out, _ = rung("eval", "contamination", *words)
    assert code == 0 and "min-20% prob" in out
    assert rung("eval", "contamination", "--train", rows)[0] == 2


def test_words_of_any_columns(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    assert words_of_rows(str(tmp_path / "a.txt")) == ["one", "two"]
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"x": {"y": ["a", {"role": "user", "content": "b"}]}, "n": 1}) + "\n"
    )
    assert words_of_rows(str(tmp_path / "a.jsonl")) == ["a\nb"]


def test_a_frame_is_what_all_share_and_never_counts_twice():
    assert without_frame(["say a b now", "say c now", "say now"]) == ["a b", "c", ""]
    assert without_frame(["x x", "x x x"]) == ["", "x"]
    assert without_frame(["alone here"]) == ["alone here"]


def test_texts_without_a_token_to_score_have_no_logprobs(tiny_folder):
    reader = Reader.open(str(tiny_folder), "fp32", "cpu")
    texts = ["ab", "", "abc", "a"]
    found = reader.logprobs_of_texts(texts)
    assert [len(each) for each in found] == [1, 0, 2, 0]
