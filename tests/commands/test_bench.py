"""`rung bench`: found and called as asked, the same work dealt to everyone, the report as promised."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rung import cli
from rung.commands import bench
from rung.commands.bench import Bench, words
from rung.errors import RunStopped, UserError
from rung.sources.demonstrations import DemonstrationSource

CHECKOUT = Path(bench.__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from benchmarks import harness, packed_rows, sft, sft_contestants  # noqa: E402
from benchmarks.rollout_rung import step_bytes  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
KEYS = {"name", "work", "ours", "peers", "peer", "ratio", "peak_memory_ratio", "runs", "machine"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    letters = ByteLevelBPETokenizer()
    letters.train_from_iterator([], vocab_size=256)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters._tokenizer, eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=260,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    draw = random.Random(0)
    rows = [
        {
            "question": "q" * draw.randint(5, 60),
            "answer": "".join(draw.choices("abcd", k=draw.randint(5, 120))),
        }
        for _ in range(300)
    ]
    file = tmp_path_factory.mktemp("data") / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def dealt(data, model, folder, **changes):
    settings = dict(model=model, length=256, rows_per_step=4, steps=3, trained="all")
    return packed_rows.prepare(data, folder, **settings | changes)


# ---- finding and calling ----


def test_the_benchmark_gets_what_was_given_and_its_answer_is_the_status(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text("x = 1\n")
    (folder / "thing.py").write_text("x = 1\n\ndef main(argv):\n    print(argv)\n    return 3\n")
    monkeypatch.setattr(bench.rung, "__file__", str(tmp_path / "rung" / "__init__.py"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    line = ["bench", "thing", "--json", "--no-peers", "--steps", "5", "trained=answers"]
    assert cli.status(line) == 3
    assert capsys.readouterr().out == "['--json', '--no-peers', '--steps', '5', '--trained', 'answers']\n"
    for wrong in (["bench", "helper"], ["bench"], ["bench", "../thing"]):
        assert cli.status(wrong) == 2
        assert "with one of: thing\n" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


def test_nothing_given_is_nothing_passed_on():
    assert words(Bench("sft")) == []
    assert words(Bench("sft", runs=3, device="cpu", quick=True)) == [
        "--quick",
        "--runs",
        "3",
        "--device",
        "cpu",
    ]


def test_an_installation_without_a_checkout_says_so(tmp_path):
    with pytest.raises(UserError, match="pip install -e"):
        bench.find("sft", tmp_path)


def test_the_benchmarks_of_this_checkout():
    assert bench.find("sft", CHECKOUT) is sft.main
    with pytest.raises(
        UserError, match=r"one of: (?!.*harness).*grpo, kernels, native, .*rollout, sandbox, sft"
    ):
        bench.find("harness", CHECKOUT)


# ---- the harness ----


def test_peak_memory_is_that_of_the_process():
    def measured(megabytes: int) -> float:
        code = f"import sys; x = b'1' * {megabytes * 10**6}; print('done'); print('noise', file=sys.stderr)"
        output, peak = harness.fresh_process("it", [sys.executable, "-c", code])
        assert output == "done\n"
        return peak

    ours = harness.fresh_process("nothing", [sys.executable, "-c", ""])[
        1
    ]  # this process's own peak is the floor
    size = 300 + round(ours * 1000)
    assert size / 1000 <= measured(size) <= size / 1000 + 0.1


def test_a_failed_measurement_shows_its_last_words():
    with pytest.raises(RunStopped, match=r"TRL ended with status 7(?s:.)*no such luck") as stop:
        code = "import sys; print('no such luck', file=sys.stderr); sys.exit(7)"
        harness.fresh_process("TRL", [sys.executable, "-c", code])
    assert stop.value.code == 1


def test_contestants_alternate():
    order = []
    take = {name: lambda name=name: order.append(name) or {"n": len(order)} for name in "AB"}
    runs = harness.take_turns(take, 3, lambda name, one: None)
    assert order == list("ABABAB")
    assert runs["B"] == [{"n": 2}, {"n": 4}, {"n": 6}]
    with pytest.raises(UserError, match="runs is 0"):
        harness.take_turns(take, 0, lambda name, one: None)


def test_report_divides_ours_by_the_named_peer():
    peers = {
        "a": {"tokens_per_second": 50.0, "peak_memory": 8.0},
        "b": {"tokens_per_second": 400.0, "peak_memory": 1.0},
    }
    ours = {"tokens_per_second": 200.0, "peak_memory": 2.0}
    made = harness.report(
        "x", "w", ours, peers, peer="a", rate="tokens_per_second", runs={"rung": [ours]}, extra=1
    )
    assert set(made) == KEYS | {"extra"}
    assert (made["ratio"], made["peak_memory_ratio"]) == (4.0, 0.25)
    assert made["peers"]["b"] == peers["b"] | {"ratio": 0.5, "peak_memory_ratio": 2.0}
    alone = harness.report("x", "w", ours, {}, peer=None, rate="tokens_per_second", runs={})
    assert (alone["ratio"], alone["peak_memory_ratio"]) == (None, None)


# ---- the same work ----


@pytest.mark.parametrize("trained", ["all", "answers"])
def test_rung_reads_the_documents_dealt_out_step_by_step(data, model, tmp_path, trained):
    rows = dealt(data, model, tmp_path, trained=trained)
    examples = packed_rows.tokenised(rows.file, model, 256)
    source = DemonstrationSource(examples, [len(examples)], None, step_tokens=4 * 256, micro_tokens=512)
    seen = set()
    for step in range(3):
        batches = source.step(step)
        assert sum(len(batch.token_ids_N) for batch in batches) == rows.tokens(step) <= 1024
        assert sum(int(batch.trained_N.sum()) for batch in batches) == rows.targets(step)
        documents = {tuple(document.token_ids) for document in source.documents(step)}
        assert documents == {tuple(document.token_ids) for document in rows.documents(step)}
        assert len(rows.steps[step]) == 4 and all(sum(map(len, row)) <= 256 for row in rows.steps[step])
        assert not documents & seen  # a step is new data
        seen |= documents
        share = rows.targets(step) / rows.tokens(step)
        assert share > 0.95 if trained == "all" else 0.2 < share < 0.8


def test_steps_that_rung_would_not_take_are_refused(data, model, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_rows, "epoch_order", lambda sizes, *rest, **more: range(sizes[0]))
    with pytest.raises(UserError, match="would not hold the documents dealt"):
        dealt(data, model, tmp_path)


def test_too_few_rows(data, model, tmp_path):
    with pytest.raises(UserError, match="need 404; give a file with more rows, or fewer --steps"):
        dealt(data, model, tmp_path, steps=100)


def test_rows_without_an_answer_are_named(model, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "1?", "answer": "1"}\n{"text": "one"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2 has no question and answer"):
        dealt(file, model, tmp_path)


def test_trl_gets_the_same_tokens_and_targets(data, model, tmp_path):
    rows = dealt(data, model, tmp_path, trained="answers")
    made = packed_rows.as_trl_rows(rows)
    assert len(made) == 3 * 4
    for step in range(3):
        here = made[4 * step : 4 * step + 4]
        assert sum(len(row["input_ids"]) for row in here) == rows.tokens(step)
        assert sum(label != -100 for row in here for label in row["labels"]) == rows.targets(step)
    row, documents = made[5], rows.steps[1][1]
    assert row["seq_lengths"] == [len(document) for document in documents]
    assert row["input_ids"] == [token for document in documents for token in document.token_ids]
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


# ---- what comes out ----


def test_speed_counts_real_tokens_of_steps_after_the_warm_up():
    work = sft_contestants.Work("m", "cpu", 512, 8, 2, steps=4, warm_up=1, trained="all")
    assert sft_contestants.speed(work, [4000, 3000, 3500, 3500], [10.0, 20.0, 20.0]) == 10000 / 50
    assert (
        sft_contestants.speed(replace(work, warm_up=2), [4000, 3000, 3500, 3500], [10.0, 20.0, 20.0])
        == 7000 / 40
    )


def test_contestants_that_did_other_work_are_named(data, model, tmp_path):
    rows = dealt(data, model, tmp_path)
    tokens, targets = [rows.tokens(step) for step in range(3)], [rows.targets(step) for step in range(3)]
    ours = {"tokens": tokens, "targets": targets, "losses": [2.0, 1.0]}
    peer = {"tokens": tokens, "losses": [2.009, 9.0]}

    def wrong(**changes) -> str:
        return " ".join(sft.disagreements({"rung": [ours], "trl": [peer, peer | changes]}, rows))

    assert wrong() == ""
    assert wrong(losses=[2.011]) == "trl has loss 2.0110 in the first step, and rung 2.0000"
    assert "trl read [1] tokens" in wrong(tokens=[1])
    assert "trl trained [1] tokens" in wrong(targets=[1])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "nowhere.jsonl"], "no file nowhere.jsonl; give GSM8K's training rows"),
        (["--steps", "1"], "--steps is 1"),
    ],
)
def test_refusals(argv, message, data):
    with pytest.raises(UserError, match=message):
        sft.main(["--device", "cpu", "--data", str(data), "--no-peers", *argv])


def test_missing_peers(data, model, tmp_path, monkeypatch):
    monkeypatch.setattr(sft_contestants, "PEERS_PYTHON", tmp_path / "nowhere")
    monkeypatch.setattr(sft, "prepare", lambda *arguments, **more: None)
    with pytest.raises(UserError, match="make peers"):
        sft.main(["--device", "cpu", "--data", str(data), "--model", model])


@pytest.mark.slow
def test_the_whole_of_it_on_a_tiny_model(data, model, capsys):
    line = ["bench", "sft", "--no-peers", "--quick", "--steps", "2", "--json", "--device", "cpu"]
    assert cli.status([*line, "--model", model, "--data", str(data)]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(made) >= KEYS and made["name"] == "sft"
    assert made["peers"] == {} and made["ratio"] is None and made["peer"] is None
    (run,) = made["runs"]["rung"]
    assert run["tokens"] == made["tokens_per_step"] and run["targets"] == made["targets_per_step"]
    assert made["ours"]["tokens_per_second"] == run["tokens"][1] / run["seconds"][0]
    assert made["ours"]["peak_memory"] > 0.1 and made["machine"]["torch"]


def test_decoding_reads_the_weights_every_step_and_each_row_its_own_past():
    """Two prompts of 3 and 5 tokens, two answers to each of 4 tokens, 10 bytes a token, 1,000 bytes of weights:
    4 steps of weights, and rows of 3+4+5+6 and 5+6+7+8 tokens, each twice."""
    assert step_bytes(1000, 10, [3, 5], 2, 4) == 4 * 1000 + 10 * 2 * (18 + 26)
