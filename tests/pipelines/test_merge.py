"""`rung merge` from folder to folder on tiny Llamas: the numbers, the memory, the checks and what is refused."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from folder_case import tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rung.cli import status
from rung.errors import UserError
from rung.eval.intervals import Estimate
from rung.merge.blocks import blocks_of
from rung.merge.dare import dare
from rung.models.folder import digest, read_tensors
from rung.models.stream import stored_digest, stored_tensors, write_stream
from rung.pipelines import merge as pipeline
from rung.pipelines import merge_measure as measure
from rung.pipelines.evaluate_text import TextScore
from rung.pipelines.merge import plan, write_merge
from rung.pipelines.merge_measure import documents, scored
from rung.pipelines.merge_methods import mean


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parents")
    for i, name in enumerate(("base", "a", "b")):
        model = tiny_model("llama", tie_word_embeddings=True)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(i)
            for parameter in model.parameters():
                parameter.add_(0.02 * i * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return {name: root / name for name in ("base", "a", "b")}


def run(*words) -> int:
    return status(["merge", *map(str, words)])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def refused(capsys, out: Path, *words, message: str) -> None:
    before = sorted(out.parent.iterdir())
    assert run(*words, "--out", out) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said, said
    assert sorted(out.parent.iterdir()) == before


def test_the_mean_is_a_model_that_transformers_opens(tmp_path, folders, capsys):
    out = tmp_path / "m"
    assert run(folders["a"], folders["b"], "--weights", 0.25, 0.75, "--out", out) == 0
    said = capsys.readouterr().out
    assert "merged 2 models by linear" in said and "bits per byte" in said
    a, b, found = (weights(folder) for folder in (folders["a"], folders["b"], out))
    assert found.keys() == a.keys() and "lm_head.weight" not in found
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 0.25 * a[name] + 0.75 * b[name], atol=1e-7, rtol=1e-6)
    opened = AutoModelForCausalLM.from_pretrained(out)
    assert opened.lm_head.weight is opened.model.embed_tokens.weight
    theirs, ours = AutoTokenizer.from_pretrained(folders["a"]), AutoTokenizer.from_pretrained(out)
    assert ours.get_vocab() == theirs.get_vocab() and ours.chat_template == theirs.chat_template
    lineage = json.loads((out / "lineage.json").read_text())
    assert lineage["method"] == "linear" and lineage["weights"] == [0.25, 0.75]
    assert [p["digest"] for p in lineage["parents"]] == [digest(read_tensors(folders[n])) for n in "ab"]


@pytest.mark.parametrize(
    "words",
    [
        ["--method", "linear"],
        ["--method", "slerp", "--alpha", "0.3"],
        ["--method", "ema", "--decay", "0.4"],
        ["--method", "ties", "--base", "A"],
        ["--method", "dare-ties", "--base", "A", "--density", "0.5"],
    ],
)
def test_a_model_with_itself_is_itself(tmp_path, folders, words):
    words = [str(folders["a"]) if word == "A" else word for word in words]
    assert run(folders["a"], folders["a"], *words, "--perplexity", "false", "--out", tmp_path / "m") == 0
    assert digest(read_tensors(tmp_path / "m")) == digest(read_tensors(folders["a"]))


@pytest.mark.parametrize("method", ["wise-ft", "slerp"])
def test_the_ends_are_the_parents_byte_for_byte(tmp_path, folders, method):
    for alpha, name in (("0", "a"), ("1", "b")):
        words = ["--method", method, "--alpha", alpha, "--perplexity", "false", "--out", tmp_path / alpha]
        assert run(folders["a"], folders["b"], *words) == 0
        assert digest(read_tensors(tmp_path / alpha)) == digest(read_tensors(folders[name]))


def test_dare_throws_its_dice_by_seed_and_tensor(tmp_path, folders):
    words = ["--method", "dare", "--base", folders["base"], "--density", "0.5", "--perplexity", "false"]
    for out, seed in (("one", 3), ("same", 3), ("other", 4)):
        assert run(folders["a"], folders["b"], *words, "--seed", seed, "--out", tmp_path / out) == 0
    one, same, other = (weights(tmp_path / name) for name in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    base = weights(folders["base"])
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1)]
    masks = [(one[name] == base[name]) for name in names]  # both dropped
    assert not torch.equal(*masks)
    whole = torch.cat(list(dare(blocks_of(base[names[0]], base[names[0]]), weights=[1.0], seed=1)))
    assert torch.equal(whole.float().reshape(base[names[0]].shape), base[names[0]])


def test_types_and_shards(tmp_path, folders, monkeypatch):
    words = [folders["a"], folders["b"], "--perplexity", "false", "--dtype", "bfloat16"]
    assert run(*words, "--out", tmp_path / "half") == 0
    mean_of = {
        n: (t.double() + weights(folders["b"])[n].double()) / 2 for n, t in weights(folders["a"]).items()
    }
    half = weights(tmp_path / "half")
    assert all(torch.equal(half[name], mean_of[name].bfloat16()) for name in half)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    # In several files, and in blocks that cut rows anywhere: the same tensors.
    monkeypatch.setattr(pipeline, "BLOCK", 77)
    monkeypatch.setattr(pipeline, "write_stream", lambda *args: write_stream(*args, shard_bytes=20_000))
    assert run(*words, "--out", tmp_path / "shards") == 0
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert digest(read_tensors(tmp_path / "shards")) == digest(half)
    AutoModelForCausalLM.from_pretrained(tmp_path / "shards")


def test_what_is_stored_is_read_in_pieces(tmp_path):
    tensors = {
        "half": torch.randn(3, 5).bfloat16(), "whole": torch.randn(4, 2), "ids": torch.arange(7),
        "none": torch.empty(0, 3), "one": torch.tensor(2.5), "flags": torch.tensor([True, False, True]),
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    stored = stored_tensors(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(stored[name].read(0, tensor.numel()), tensor.reshape(-1))
        assert stored[name].shape == tuple(tensor.shape)
    assert torch.equal(
        stored["half"].runs([(5, 10), (0, 2)]), tensors["half"].reshape(-1)[[5, 6, 7, 8, 9, 0, 1]]
    )
    assert stored_digest(tmp_path) == digest(tensors)
    layout = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    (tmp_path / "again").mkdir()
    write_stream(tmp_path / "again", layout, lambda name: iter(tensors[name].reshape(-1).split(2)))
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert digest(again) == digest(tensors)


# ---- tokens ----


def other_vocabulary(source: Path, out: Path) -> dict[str, int]:
    """The same model with its tokens in another order, one renamed, and spare rows at the end."""
    tensors, tokenizer = weights(source), json.loads((source / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    specials = {token["content"] for token in tokenizer["added_tokens"]}
    plain = [token for token in vocabulary if token not in specials]
    moved = dict(zip(plain, [vocabulary[t] for t in plain[1:] + plain[:1]], strict=True))
    moved = {**vocabulary, **moved}
    embedding = tensors["model.embed_tokens.weight"]
    rows = torch.zeros(len(embedding) + 4, embedding.shape[1])
    for token, place in moved.items():
        rows[place] = embedding[vocabulary[token]]
    moved["<else>"] = moved.pop(plain[5])
    out.mkdir()
    for file in source.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    save_file(tensors | {"model.embed_tokens.weight": rows}, out / "model.safetensors", {"format": "pt"})
    tokenizer["model"]["vocab"] = moved
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"vocab_size": len(rows)}))
    return {plain[5]: vocabulary[plain[5]]}


def test_tokens_are_brought_together_by_their_string(tmp_path, folders, capsys):
    [place] = other_vocabulary(folders["b"], tmp_path / "moved").values()
    refused(capsys, tmp_path / "m", folders["a"], tmp_path / "moved", message="--align-tokens")
    words = ["--align-tokens", "true", "--perplexity", "false"]
    assert run(folders["a"], tmp_path / "moved", *words, "--out", tmp_path / "m") == 0
    assert run(folders["a"], folders["b"], "--perplexity", "false", "--out", tmp_path / "plain") == 0
    found, plain, a = weights(tmp_path / "m"), weights(tmp_path / "plain"), weights(folders["a"])
    rows = AutoTokenizer.from_pretrained(folders["a"]).get_vocab().values()
    name = "model.embed_tokens.weight"
    for row in rows:  # as if the order had been the same, but for the token that the other lacks
        expected = a[name][row] if row == place else plain[name][row]
        torch.testing.assert_close(found[name][row], expected, atol=1e-7, rtol=0)
    spare = sorted(set(range(len(found[name]))) - set(rows))
    assert spare and torch.equal(found[name][spare], a[name][spare])
    assert all(torch.equal(found[n], plain[n]) for n in found if n != name)


def test_spare_rows_of_one_model_are_not_averaged_with_nothing(tmp_path, folders, capsys):
    name = "model.embed_tokens.weight"
    padded = edited(
        folders["b"], tmp_path / "padded", lambda t: t | {name: torch.cat([t[name], torch.full((4, 32), 9.0)])},
        dict(vocab_size=304),
    )  # fmt: skip
    refused(capsys, tmp_path / "m", folders["a"], padded, message="--align-tokens brings vocabularies of")
    assert run(folders["a"], folders["b"], "--no-perplexity", "--out", tmp_path / "plain") == 0
    words = ["--align-tokens", "--no-perplexity", "--out"]
    assert run(folders["a"], padded, *words, tmp_path / "short") == 0
    assert run(padded, folders["a"], *words, tmp_path / "long") == 0
    plain, short, long = (weights(tmp_path / each)[name] for each in ("plain", "short", "long"))
    used = AutoTokenizer.from_pretrained(folders["a"]).get_vocab().values()
    rows = sorted(used)
    torch.testing.assert_close(short[rows], plain[rows], atol=1e-7, rtol=0)
    torch.testing.assert_close(long[rows], plain[rows], atol=1e-7, rtol=0)
    assert short.shape == plain.shape and (long[300:] == 9.0).all()


def test_other_tokens_of_the_same_number_are_refused(tmp_path, folders, capsys):
    other_vocabulary(folders["b"], tmp_path / "moved")
    tensors = weights(tmp_path / "moved")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:300].clone()
    save_file(tensors, tmp_path / "moved" / "model.safetensors", {"format": "pt"})
    refused(capsys, tmp_path / "m", folders["a"], tmp_path / "moved", message="different tokenizers: 25")


# ---- memory ----

MEASURED = """
import sys, json, resource
from pathlib import Path
from rung.pipelines.merge import plan, write_merge
from rung.pipelines.merge_methods import method_named
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
small, large, out, name = sys.argv[1:]
for models in ([small] * 3, [large] * 3):
    before = peak()
    method = method_named(name, models[:2], models[2], {})
    Path(out, Path(models[0]).name).mkdir(parents=True)
    write_merge(plan(models[:2], models[2]), method, Path(out, Path(models[0]).name))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["ties"])
def test_memory_stays_under_half_of_one_tensor(tmp_path, folders, name):
    """The bound asked for is three times the largest tensor; blocks make it a fraction, for three models."""
    wide = dict(vocab_size=300, hidden_size=64, intermediate_size=131072, num_hidden_layers=1)
    tiny_model("llama", **wide).save_pretrained(tmp_path / "wide")
    tiny_tokenizer().save_pretrained(tmp_path / "wide")
    largest = max(t.nbytes for t in weights(tmp_path / "wide").values())
    assert largest == 4 * 64 * 131072  # 34 MB, of about 100 in all
    words = [str(folders["a"]), str(tmp_path / "wide"), str(tmp_path / "out"), name]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < largest / 2


def test_a_merge_that_measures_nothing_does_without_transformers(tmp_path, folders):
    """Its import takes longer than the merge of a small model."""
    code = (
        "import sys; from rung.cli import status; print(status(sys.argv[1:]), 'transformers' in sys.modules)"
    )
    words = ["merge", str(folders["a"]), str(folders["b"]), "--no-perplexity", "--out", str(tmp_path / "m")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


# ---- what is refused ----


def edited(source: Path, out: Path, tensors=None, config=None) -> Path:
    out.mkdir()
    for file in source.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    if tensors is not None:
        save_file(tensors(weights(source)), out / "model.safetensors", {"format": "pt"})
    if config is not None:
        kept = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(kept | config))
    return out


NORM, UP = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != NORM}, None, f"1 tensors missing in OTHER: {NORM}"),
        (lambda t: t | {"extra": torch.ones(1)}, None, "missing in A: extra"),
        (lambda t: t | {UP: t[UP][:, :8].clone()}, None, f"{UP} is [48, 8] and [48, 32]"),
        (lambda t: t | {UP: t[UP].fill_(torch.nan)}, None, f"{UP} of OTHER is not finite"),
        (
            lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"] + 1},
            None,
            "set tie_word_embeddings",
        ),
        (None, dict(num_attention_heads=8, head_dim=4), "heads is 8 and 4"),
        (None, dict(rope_parameters=dict(rope_theta=7.0, rope_type="default")), "ropes is"),
        (None, dict(model_type="mistral"), "a mistral model and a llama model"),
    ],
)
def test_models_that_do_not_fit(tmp_path, folders, capsys, change, config, message):
    other = edited(folders["b"], tmp_path / "other", change, config)
    message = message.replace("OTHER", str(other)).replace("A:", f"{folders['a']}:")
    refused(capsys, tmp_path / "m", folders["a"], other, message=message)


def test_a_repeated_head_of_a_tied_model_is_written_once(tmp_path, folders):
    other = edited(
        folders["b"], tmp_path / "o", lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()}
    )
    assert run(folders["a"], other, "--perplexity", "false", "--out", tmp_path / "m") == 0
    assert "lm_head.weight" not in weights(tmp_path / "m")


def test_whole_numbers_must_agree_and_keep_their_type(tmp_path, folders, capsys):
    a, same, other = (
        edited(folders[name], tmp_path / out, lambda t, n=n: t | {"steps": torch.tensor([3, n])})
        for name, out, n in (("a", "a", 4), ("b", "same", 4), ("b", "other", 5))
    )
    assert run(a, same, "--dtype", "bfloat16", "--no-perplexity", "--out", tmp_path / "m") == 0
    assert weights(tmp_path / "m")["steps"].tolist() == [3, 4]
    assert weights(tmp_path / "m")["steps"].dtype == torch.int64
    refused(capsys, tmp_path / "n", a, other, message="steps holds whole numbers, which cannot be averaged")


def test_the_first_tuned_model_with_a_template_gives_config_and_tokenizer(tmp_path, folders):
    mute = edited(folders["a"], tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    names = [str(mute), str(folders["b"])]
    assert plan(names, str(folders["base"])).reference.name == names[1]
    assert plan(names[:1], str(folders["base"])).reference.name == names[0]
    (mute / "generation_config.json").write_text('{"temperature": 0.3}')
    assert run(mute, mute, "--no-perplexity", "--out", tmp_path / "m") == 0
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text()) == {"temperature": 0.3}
    (mute / "generation_config.json").unlink()
    assert run(mute, mute, "--no-perplexity", "--out", tmp_path / "n") == 0
    assert json.loads((tmp_path / "n" / "generation_config.json").read_text())["eos_token_id"] == [2]


def test_space_is_asked_for_before_anything_is_read(tmp_path, folders, monkeypatch):
    asked = []
    monkeypatch.setattr("rung.publish.require_space", lambda path, size: asked.append(size))
    for dtype in ("float32", "bfloat16"):
        words = ["--dtype", dtype, "--no-perplexity", "--out", tmp_path / dtype]
        assert run(folders["a"], folders["b"], *words) == 0
    bytes = sum(tensor.nbytes for tensor in weights(folders["a"]).values())
    assert [size - 20_000_000 for size in asked] == [bytes + bytes // 100, bytes // 2 + bytes // 200]


def test_sums_beyond_the_type_are_refused(tmp_path, folders, capsys):
    words = ["--method", "task-arithmetic", "--base", folders["base"], "--dtype", "float16", "--scale", 1e9]
    refused(capsys, tmp_path / "m", folders["a"], *words, message="beyond the range of float16")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["A", "B", "--method", "tiles"], "method"),
        (["A", "B", "--density", 0.3], "linear has no density; it takes weights"),
        (["A", "B", "--method", "ties"], "write --base MODEL"),
        (["A", "B", "--base", "A"], "linear has no base"),
        (["A"], "merges two models or more; 1 were given"),
        (["A", "B", "A", "--method", "slerp"], "exactly two models"),
        (["A", "B", "--weights", 1.0], "1 weights (1) for 2 models"),
        (["A", "B", "--weights", 0.5, 0.6], "--weights 0.4545 0.5455"),
        (["A", "B", "--weights", 0.5, "nan"], "finite number"),
        (["A", "B", "--method", "ties", "--base", "A", "--density", -0.2], "a density of -0.2"),
        (["A", "B", "--method", "wise-ft", "--alpha", 1.5], "alpha is 1.5"),
        (["A", "nowhere"], "nowhere is no folder"),
        (["A", "B", "--env", "countdown"], "belong to --method greedy-soup"),
        (["A", "B", "--method", "greedy-soup"], "either --validation FILE or --env SPEC"),
        (["A", "B", "--method", "greedy-soup", "--validation", "x", "--alpha", 0.1], "has no alpha"),
    ],
)
def test_words_that_cannot_be_meant(tmp_path, folders, capsys, words, message):
    named = [{"A": folders["a"], "B": folders["b"]}.get(word, word) for word in words]
    refused(capsys, tmp_path / "m", *named, message=message)


def test_a_folder_that_is_there_is_not_touched(tmp_path, folders, capsys):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("mine")
    refused(capsys, tmp_path / "m", folders["a"], folders["b"], message="already exists")
    assert [file.name for file in (tmp_path / "m").iterdir()] == ["mine"]


# ---- measured ----


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "abcab " * (i + 2)}) + "\n" for i in range(4)))
    return file


def test_the_greedy_soup_is_the_mean_of_its_members(tmp_path, folders, texts, capsys):
    out = tmp_path / "soup"
    names = [folders["base"], folders["a"], folders["b"]]
    assert run(*names, "--method", "greedy-soup", "--validation", texts, "--out", out) == 0
    assert "soup of " in capsys.readouterr().out
    lineage = json.loads((out / "lineage.json").read_text())
    members = lineage["members"]
    rows = documents(str(texts))
    assert lineage["alone"] == {str(name): -scored(name, rows).per_byte().value for name in names}
    assert lineage["metric"] >= max(lineage["alone"].values())
    expected = tmp_path / "mean"
    expected.mkdir()
    write_merge(plan(members, ""), mean(len(members)), expected)
    assert digest(read_tensors(expected)) == digest(read_tensors(out))
    assert not (out / "trial").exists()


def said_of(bits: float) -> SimpleNamespace:
    estimate = Estimate(bits, bits - 0.1, bits + 0.1)
    return SimpleNamespace(per_byte=lambda: estimate, perplexity=lambda: estimate)


def test_a_merge_is_compared_with_the_worst_of_its_parents(tmp_path, monkeypatch):
    found = {tmp_path: 2.19, "a": 1.0, "b": 2.0}
    monkeypatch.setattr(measure, "scored", lambda name, rows: said_of(found[name]))
    lines = measure.compare_perplexity(tmp_path, ["a", "b", "a"], "").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["merged", "a", "b"]
    assert lines[1].split() == ["merged", "2.1900", "2.0900", "to", "2.2900", "2.190"]
    found[tmp_path] = 2.21
    assert "more than a tenth worse" in measure.compare_perplexity(tmp_path, ["a", "b"], "").splitlines()[-1]
    for broken in (math.inf, math.nan):
        found[tmp_path] = broken
        with pytest.raises(UserError, match="it was not written"):
            measure.compare_perplexity(tmp_path, ["a", "b"], "")


def test_a_perplexity_beyond_what_a_float_holds_is_infinite():
    one = np.array([2])
    score = TextScore("m", np.array([-2000.0]), one, one, ("row",), 0)
    assert score.perplexity().value == math.inf
    assert score.per_byte().value == pytest.approx(1000 / math.log(2))


def test_the_front_is_of_less_forgotten_and_more_gained():
    def points(*pairs):
        return [measure.Point(0.0, Estimate(k, k, k), Estimate(g, g, g)) for k, g in pairs]

    both = points((1.0, 0.2), (1.5, 0.9), (1.6, 0.8), (1.0, 0.1))
    assert [p.best for p in measure.on_front(both, lower_gain=False)] == [True, True, False, False]
    assert [p.best for p in measure.on_front(both, lower_gain=True)] == [False, False, False, True]


def test_the_sweep_marks_what_no_other_beats(tmp_path, folders, texts, capsys):
    tuned_on = tmp_path / "new.jsonl"
    tuned_on.write_text(json.dumps({"prompt": "say", "completion": "xyxyxy"}) + "\n")
    words = [folders["base"], folders["b"], "--text", texts, "--task", tuned_on, "--alphas", 1, 0, 0.5]
    assert run("sweep", *words, "--out", tmp_path / "s") == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "s" / "sweep.json").read_text())
    points = found["points"]
    assert [p["alpha"] for p in points] == [0.0, 0.5, 1.0]
    for p in points:  # in bits per byte lower is better, in both
        beaten = any(
            q["kept"][0] <= p["kept"][0] and q["gained"][0] <= p["gained"][0] and q != p for q in points
        )
        assert p["pareto"] is not beaten
    assert said.count("*") == sum(p["pareto"] for p in points)
    assert (tmp_path / "s" / "sweep.png").stat().st_size > 5000
    assert not list((tmp_path / "s").glob("alpha-*/model"))
    assert run("sweep", folders["base"], folders["b"], "--text", texts, "--out", tmp_path / "t") == 2
    assert not (tmp_path / "t").exists()


def test_what_a_killed_merge_left_is_cleared_by_the_next_and_nothing_else(tmp_path, folders):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, neighbour, own = (
        tmp_path / f"m.tmp-{gone.pid}-0123abcd",
        tmp_path / f"other.tmp-{gone.pid}-0123abcd",
        tmp_path / "m.tmp-notes",
    )
    for folder in (left, neighbour, own):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    assert run(folders["a"], folders["b"], "--no-perplexity", "--out", tmp_path / "m") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["m", neighbour.name, own.name])
