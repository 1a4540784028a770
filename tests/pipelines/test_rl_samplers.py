"""`rung rl --sampler`: the same run whatever samples, under the weights that train, and what is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rl_case import play, rounds, steps, told, words

import rung.rollouts.hf
from rung.cli import status
from rung.errors import UserError
from rung.models.fingerprint import fingerprint
from rung.models.load import load_model
from rung.pipelines import sampler
from rung.rollouts.hf import HfSampler, open_with_transformers
from rung.settings_rl import Rl

LEARNS = {"rounds": 3, "optimizer__learning_rate": 0.02, "save_every": 1, "max_tokens": 12}


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


def tokens(run) -> list[list[int]]:
    return [record.rollout.token_ids.tolist() for graded in rounds(run) for record in graded]


@pytest.mark.parametrize(
    "options",
    [{}, {"lora__rank": 2}, {"kind": "talk"}, {"updates": 2}],
    ids=["plain", "lora", "talk", "updates"],
)
def test_transformers_samples_what_the_engine_samples(tiny_folder, tmp_path, options):
    """The dice are the same, so every token is, in every round: later rounds only if the weights arrived."""
    engine = play(tiny_folder, tmp_path / "engine", **LEARNS, **options)
    hf = play(tiny_folder, tmp_path / "hf", sampler="hf", **LEARNS, **options)
    assert tokens(hf) == tokens(engine)
    # not closer: Adam's first step makes a weight whose gradient is rounding move as far as any other
    for ours, theirs in zip(rounds(hf), rounds(engine), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            for name in ("sampler_logprob", "policy_logprob", "entropy", "version", "by_model"):
                assert np.allclose(getattr(one.rollout, name), getattr(other.rollout, name), atol=2e-2), name
    assert [row["reward"] for row in steps(hf) if "reward" in row] == pytest.approx(
        [row["reward"] for row in steps(engine) if "reward" in row]
    )
    assert all(0 < row["sampler_gap_max"] < 1e-4 for row in steps(hf))


def test_greedy_evaluations_are_the_same_too(tiny_folder, tmp_path):
    options = LEARNS | {"eval_every": 1, "eval_temperature": 0, "rounds": 2}
    runs = [play(tiny_folder, tmp_path / name, sampler=name, **options) for name in ("engine", "hf")]
    one, other = ([row["heldout_score"] for row in steps(run) if "heldout_score" in row] for run in runs)
    assert one == other and len(one) == 2


def test_rollouts_name_the_weights_they_were_sampled_with(tiny_folder, tmp_path):
    run = play(tiny_folder, tmp_path / "run", sampler="hf", **LEARNS)
    models = [tiny_folder, *sorted((run / "checkpoints").glob("step-*"))[:2]]
    for number, (graded, folder) in enumerate(zip(rounds(run), models, strict=True)):
        digest = fingerprint(load_model(folder), trained_only=True)
        assert {record.rollout.digest for record in graded} == {digest}
        assert {int(v) for record in graded for v in record.rollout.version} == {number}


def test_weights_that_did_not_arrive_are_noticed(tiny_folder, monkeypatch):
    sampler, trained = HfSampler(open_with_transformers(tiny_folder)), load_model(tiny_folder)
    with torch.no_grad():
        trained.head_weight[7, 3] += 1e-3
    sampler.push(trained, 5, "abc")
    assert (sampler.version, sampler.digest) == (5, "abc")
    assert sampler.model.head_weight[7, 3] == trained.head_weight[7, 3]
    sampler.push(trained, 6)
    assert sampler.digest == fingerprint(trained)
    with torch.no_grad():
        trained.head_weight[7, 3] += 1e-3
    monkeypatch.setattr(sampler.model.inner, "load_state_dict", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"1 differ, such as model\.embed_tokens\.weight"):
        sampler.push(trained, 7)
    assert sampler.version == 6


def test_the_ratio_starts_from_the_sampler_unless_something_else_corrects(tiny_folder, tmp_path):
    """hf's log-probs, shifted by 0.1 nats: a mismatch as if another kernel had drawn."""
    original = rung.rollouts.hf.record

    def shifted(rows, drawn, **facts):
        return original(rows, drawn._replace(sampler_logprob_B=drawn.sampler_logprob_B - 0.1), **facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rung.rollouts.hf, "record", shifted)
        base = LEARNS | {"sampler": "hf", "rounds": 1}
        own = play(tiny_folder, tmp_path / "own", **base)
        trainer = play(tiny_folder, tmp_path / "trainer", loss__ratio_from="trainer", **base)
        truncated = play(tiny_folder, tmp_path / "tis", loss__correction="tis", **base)
        masked = play(
            tiny_folder, tmp_path / "mis", loss__correction="mis", loss__correction_max=1.05, **base
        )
    for run in (own, trainer, truncated, masked):
        assert steps(run)[0]["sampler_gap"] == pytest.approx(0.1, abs=1e-4)  # measured always
    assert steps(own)[0]["ratio_max"] == pytest.approx(math.exp(0.1), rel=1e-4)
    assert steps(trainer)[0]["ratio_max"] == steps(truncated)[0]["ratio_max"] == 1
    # on-policy the advantages of a group sum to 0, and so does the loss, e^0.1 times as large or not
    assert steps(truncated)[0]["corrected_share"] == 0 and steps(masked)[0]["corrected_share"] == 1
    assert steps(masked)[0]["grad_norm"] == 0  # e^0.1 lies above 1.05: every token is left out
    ratio = steps(truncated)[0]["grad_norm"] / steps(trainer)[0]["grad_norm"]
    assert ratio == pytest.approx(math.exp(0.1), rel=1e-3)


def test_transformers_runs_ahead_like_the_engine(tiny_folder, tmp_path):
    engine, hf = (
        play(tiny_folder, tmp_path / name, sampler=name, staleness=1, eval_every=1, **LEARNS)
        for name in ("engine", "hf")
    )
    assert tokens(hf) == tokens(engine)


@pytest.fixture(scope="module")
def stranger(tiny_folder, tmp_path_factory):
    """A family that only transformers decodes."""
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stranger")
    config = GPTNeoXConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


def test_a_family_of_transformers_learns_through_transformers(stranger, tmp_path, capsys):
    play(stranger, tmp_path / "engine", code=2)
    assert "--sampler hf" in " ".join(capsys.readouterr().err.split())
    run = play(stranger, tmp_path / "run", sampler="hf", updates=2, **LEARNS | {"loss__beta": 0.1})
    assert told(run)["state"] == "finished" and len(steps(run)) == 6
    first = [row for row in steps(run) if "round" in row]
    assert all(row["sampler_gap_max"] < 1e-4 for row in first) and first[-1]["reference_kl"] > 0


REFUSED = [
    ({"sampler": "hf", "batch_invariant": True}, "--sampler hf is not it"),
    ({"sampler": "vllm", "method": "entropy_shaped"}, "--method entropy_shaped gives credit by the entropy"),
    ({"sampler": "vllm", "vllm_python": "/nowhere/python"}, "There is no Python at /nowhere/python"),
    ({"vllm_python": "/nowhere/python"}, "changes nothing with --sampler engine"),
    ({"vllm_cache_gb": 3.0}, "--vllm-cache-gb 3.0 changes nothing with --sampler engine"),
    ({"vllm_seconds": 3.0, "sampler": "hf"}, "--vllm-seconds 3.0 changes nothing with --sampler hf"),
    ({"vllm_seconds": 0.0, "sampler": "vllm"}, "--vllm-seconds is 0.0; give more than 0"),
    ({"loss__ratio_from": "sampler", "loss__correction": "tis"}, "twice"),
    ({"method": "rloo", "loss__ratio_from": "sampler"}, "--loss.ratio-from sampler changes nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_what_a_sampler_cannot_do_is_refused(tiny_folder, tmp_path, options, says, capsys):
    assert status(words(tiny_folder, tmp_path / "run", **options)) == 2
    assert says in " ".join(capsys.readouterr().err.split()).replace("- ", "-")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "given", "eager", "cache_gb", "seconds"),
    [
        ("cpu", {}, True, 2.0, 600.0),
        ("cpu", {"vllm_cache_gb": 0.5, "vllm_seconds": 1800.0}, True, 0.5, 1800.0),
        ("cuda", {}, False, None, 600.0),
        ("cuda", {"vllm_cache_gb": 20.0}, False, 20.0, 600.0),
    ],
)
def test_vllm_on_a_cpu_neither_compiles_nor_takes_the_machine_s_memory(
    monkeypatch, device, given, eager, cache_gb, seconds
):
    seen = []
    monkeypatch.setattr(sampler, "VllmSampler", lambda model, **options: seen.append(options))
    subject = SimpleNamespace(device=torch.device(device), dtype=torch.bfloat16)
    sampler.open_sampler(Rl(sampler="vllm", slots=8, max_length=512, **given), subject, None)
    [options] = seen
    assert (options["eager"], options["cache_gb"], options["seconds"]) == (eager, cache_gb, seconds)
    assert (options["slots"], options["max_length"], options["dtype"]) == (8, 512, torch.bfloat16)
