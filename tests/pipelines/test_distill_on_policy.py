"""`rung distill-on-policy` end to end on tiny models: what each token is credited with, what is refused."""

import shutil

import numpy as np
import pytest
import torch
from distill_case import permuted, remade, told
from rl_case import ENV, rounds, steps

import rung.train
from rung.cli import status
from rung.models.load import load_model
from rung.pipelines import distill_on_policy


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def teacher(tiny_folder, tmp_path_factory):
    return remade(tiny_folder, tmp_path_factory.mktemp("teachers") / "teacher", 0.1)


def on_policy(model, out, teacher, *more):
    return [
        "distill-on-policy", "--model", str(model), "--env", f"{ENV}:make?kind=even", "--teacher", str(teacher),
        "--out", str(out), "--rounds", "2", "--prompts", "3", "--max-tokens", "6", "--precision", "fp32",
        "--test-tasks", "4", "--micro-tokens", "200", "--slots", "8", "--optimizer.learning-rate", "1e-3",
        *map(str, more),
    ]  # fmt: skip


def test_each_token_is_credited_with_what_the_teacher_thinks_of_it(tiny_folder, teacher, tmp_path):
    assert status(on_policy(tiny_folder, tmp_path / "run", teacher, "--group", 2)) == 0
    for graded in rounds(tmp_path / "run"):
        assert len(graded) == 6
        for record in graded:
            gap = record.reference_logprob - record.rollout.sampler_logprob
            np.testing.assert_allclose(record.advantage, gap, atol=1e-6)
            assert (record.weight == 1).all() and record.verdict.value > 0  # graded, and that decides nothing
    first = steps(tmp_path / "run")[0]
    every = np.concatenate([record.advantage for record in rounds(tmp_path / "run")[0]])
    assert first["loss"] == pytest.approx(-every.mean(), rel=1e-4)  # at a ratio of 1 the surrogate is -A


def test_a_teacher_that_is_the_student_gives_no_credit(tiny_folder, tmp_path):
    assert status(on_policy(tiny_folder, tmp_path / "run", tiny_folder, "--rounds", 1)) == 0
    assert max(np.abs(record.advantage).max() for record in rounds(tmp_path / "run")[0]) < 1e-5


def test_the_teachers_score_is_credit_of_the_whole_answer(tiny_folder, teacher, tmp_path):
    line = on_policy(tiny_folder, tmp_path / "run", teacher, "--method", "teacher_score", "--reward", "none")
    assert status([*line, "--rounds", "1"]) == 0
    [graded] = rounds(tmp_path / "run")
    assert len(graded) == 12
    for group in {record.rollout.group for record in graded}:
        members = [record for record in graded if record.rollout.group == group]
        said = np.array([record.reference_logprob.mean(dtype=np.float64) for record in members])
        for record, score in zip(members, said, strict=True):
            np.testing.assert_allclose(record.advantage, score - said.mean(), atol=1e-6)


@torch.no_grad()
def states(model, ids):
    from rung.models.decoder import Documents

    return model(ids, torch.arange(len(ids)), Documents((len(ids),))).states_ND


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl"])
def test_gkd_compares_whole_distributions_where_the_student_went(
    tiny_folder, teacher, tmp_path, monkeypatch, kind
):
    """Tokens without credit too: the credit is for the record, the loss does not read it."""
    monkeypatch.setattr(distill_on_policy, "reverse_kl", lambda sampler, said, mine: np.zeros_like(sampler))
    line = on_policy(tiny_folder, tmp_path / "run", teacher, "--method", "gkd", "--divergence", kind)
    assert status([*line, "--rounds", "1"]) == 0
    student, sage = load_model(tiny_folder).eval(), load_model(teacher).eval()
    places = []
    for record in rounds(tmp_path / "run")[0]:
        rollout = record.rollout
        ids = torch.tensor([*rollout.prompt_ids, *rollout.token_ids])
        ours, theirs = (
            torch.log_softmax(model.logits(states(model, ids)).double(), -1)[len(rollout.prompt_ids) - 1 : -1]
            for model in (student, sage)
        )
        under = ours if kind == "reverse_kl" else theirs
        places.append((under.exp() * (under - (theirs if kind == "reverse_kl" else ours))).sum(-1))
    first = steps(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(torch.cat(places).mean().item(), rel=1e-4)
    assert first["teacher_divergence"] == first["loss"] and first["grad_norm"] > 0


def test_a_resumed_run_is_held_to_its_teacher(tiny_folder, tmp_path, monkeypatch, capsys):
    sage, original = remade(tiny_folder, tmp_path / "sage", 0.1), rung.train._finish_gradients
    line = on_policy(tiny_folder, tmp_path / "run", sage, "--save-every", 1)

    def interrupted(*args, **kwargs):
        if (tmp_path / "run" / "LATEST").exists():
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(rung.train, "_finish_gradients", interrupted)
        assert status(line) != 0
    shutil.rmtree(sage)
    remade(tiny_folder, sage, 0.2)
    assert status(["distill-on-policy", "--resume", str(tmp_path / "run")]) == 2
    assert "another teacher" in told(capsys)


ON_POLICY_REFUSED = {
    "no teacher": (["--teacher", ""], "No teacher was given"),
    "top-p": (["--top-p", "0.9"], "not the student's own"),
    "one answer": (["--method", "teacher_score", "--group", "1"], "--group 2 or more"),
    "parts": (["--parts.whiten", "true"], "--parts.whiten changes how a reward becomes credit"),
    "sizes": (["--prompts", "0"], "--prompts is 0"),
    "server": (["--teacher", "http://127.0.0.1:9/v1", "--temperature", "0.5"], "at temperature 1"),
    "server, gkd": (["--teacher", "http://127.0.0.1:9/v1", "--method", "gkd"], "can be loaded here"),
    "loss": (["--method", "gkd", "--loss.clip-low", "0.1"], "--loss.clip-low is about a policy gradient"),
    "beta": (["--method", "gkd", "--divergence", "jensen_shannon", "--beta", "2"], "--beta"),
}


@pytest.mark.parametrize("name", ON_POLICY_REFUSED)
def test_what_cannot_be_credited_is_refused(tiny_folder, teacher, tmp_path, capsys, name):
    flags, said = ON_POLICY_REFUSED[name]
    assert status(on_policy(tiny_folder, tmp_path / "run", teacher, *flags)) == 2
    assert said in told(capsys) and not (tmp_path / "run").exists()


def test_a_teacher_with_a_permuted_vocabulary_is_refused(tiny_folder, tmp_path, capsys):
    other = permuted(tiny_folder, tmp_path / "permuted")
    assert status(on_policy(tiny_folder, tmp_path / "run", other)) == 2
    assert "same strings in another order" in told(capsys) and not (tmp_path / "run").exists()
