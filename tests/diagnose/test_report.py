"""Each detector fires on a run made with its failure, under its name; honest runs of 20 seeds have no finding."""

import json
from dataclasses import replace

import numpy as np
import pytest
from traces import MemoryStore, graded, preference_trace, rl_trace, sft_trace

from rung.diagnose.forgetting import forgetting
from rung.diagnose.replay import measurements
from rung.diagnose.report import Report, looks
from rung.diagnose.run import Trace


def report(trace):
    return Report("run", looks(trace))


def named(trace) -> dict:
    return {finding.name: finding for finding in report(trace).findings}


@pytest.mark.parametrize("make", [rl_trace, sft_trace, preference_trace])
def test_honest_runs_of_20_seeds_have_no_finding_and_say_what_was_seen(make):
    for seed in range(20):
        said = report(make(seed))
        assert said.findings == () and any(look.saw for look in said.looks)


def test_reward_that_rises_while_held_out_tasks_fall_is_hacking_and_not_also_forgetting():
    found = named(rl_trace(0, rounds=120, accuracy=(0.1, 0.9), heldout=(0.85, 0.2), tasks=200))
    assert found["reward hacking"].severity == "stop" and "forgetting" not in found


def test_held_out_tasks_that_fall_without_a_rise_of_reward_are_forgotten():
    found = named(rl_trace(1, accuracy=(0.5, 0.5), heldout=(0.8, 0.3)))
    assert found["forgetting"].unit == "step", found
    assert "nothing learned" not in named(rl_trace(1, accuracy=(0.3, 0.6)))


def goblin(rng, progress, text, right):
    return text + " a tiny goblin waves" * (rng.random() < 0.02 + 0.7 * progress)


def test_a_phrase_that_spreads_is_named_with_rates_and_an_example():
    trace = rl_trace(2, goblin)
    surge = named(trace)["phrase surge"]
    assert surge.severity == "warn" and "goblin" in surge.evidence
    example = surge.evidence.rsplit("as in ", 1)[1].split(";")[0]
    number, index = map(int, example.split("/"))
    assert "goblin" in trace.store.kept[number][index].rollout.text
    assert "of the first answers" in surge.evidence and "paid" in surge.evidence
    assert surge.evidence.count(" in ") <= 3  # `goblin waves`, `a tiny goblin` and the rest are one thing


def test_a_mark_of_formatting_that_spreads_is_named():
    found = named(rl_trace(3, lambda rng, p, text, right: "# Title\n- yes\n" * (rng.random() < p) + text))
    assert "[heading]" in found["phrase surge"].evidence and "[bullets]" in found["phrase surge"].evidence


def test_what_the_prompt_asks_for_is_no_goblin():
    """`**the answer is**` comes to be written; the prompts hold it."""

    def learns_format(rng, progress, text, right):
        return text if rng.random() < progress else text.replace("**the answer is**", "")

    trace = rl_trace(4, learns_format)
    assert "phrase surge" not in named(trace)
    trace.store.prompts.clear()
    assert "the answer is" in named(trace)["phrase surge"].evidence
    assert any("prompts were not kept" in look.unseen for look in report(trace).looks)


def test_answers_that_become_identical_are_collapse_where_there_is_room():
    def same(rng, progress, text, right):
        return "I do not know" if progress > 0.7 and not right else text

    found = named(rl_trace(5, same, accuracy=(0.1, 0.1), heldout=None))
    assert "mode collapse" in found and "say what" in found["mode collapse"].evidence


def test_short_answers_to_solved_questions_may_be_identical():
    """Two tokens, always right in the end: that all say 7 is how it should be."""
    store = MemoryStore()
    rng = np.random.default_rng(0)
    for number in range(24):
        store.kept[number] = []
        for group in range(8):
            for _ in range(8):
                right = rng.random() < number / 15
                text = "7" if right else str(rng.integers(1000))
                store.kept[number].append(graded(8 * number + group, text, float(right), 2))
    look = next(look for look in looks(Trace((), {}, store)) if look.name == "variety of answers")
    assert not look.findings and "unsolved" in look.unseen
    for number in range(24):  # the same texts, but long
        store.kept[number] = [
            graded(r.rollout.group, r.rollout.text, r.verdict.value, 40) for r in store.kept[number]
        ]
    look = next(look for look in looks(Trace((), {}, store)) if look.name == "variety of answers")
    assert look.findings


def test_entropy_collapse_dead_groups_and_mismatch_come_from_the_replay():
    trace = rl_trace(6, accuracy=(0.3, 0.3), heldout=None)
    for number in range(8, 20):
        trace.store.kept[number] = [
            graded(r.rollout.group, r.rollout.text, 0.0, 40, 0.01) for r in trace.store.kept[number]
        ]
    for row in trace.rows:
        row["sampler_kl3"] = 0.5 if row["round"] > 6 else 0.0
    found = named(trace)
    assert {"dead groups", "entropy collapse", "rollout-training mismatch"} <= found.keys()
    assert found["rollout-training mismatch"].severity == "stop"
    assert next(iter(found.values())).severity == "stop"  # worst first
    stale = replace(trace, config={"settings": {"staleness": 1}})  # there the policy has moved on meanwhile
    assert "rollout-training mismatch" not in named(stale)


def test_a_run_that_learns_nothing_is_told_with_its_interval():
    flat = named(rl_trace(7, accuracy=(0.4, 0.4), heldout=None, rounds=120, groups=24, attempts=4))
    assert "between" in flat["nothing learned"].evidence
    assert "nothing learned" in named(sft_trace(7, fall=0.0, steps=2000, evaluations=0, noise=0.03))
    short = report(sft_trace(7, fall=0.0, steps=20, evaluations=0))
    assert not short.findings and any("24 are needed" in look.unseen for look in short.looks)


def test_a_chosen_answer_that_falls_with_the_rejected_is_displacement():
    found = named(preference_trace(8, chosen=-0.2, rejected=-0.9))
    assert (
        found["likelihood displacement"].severity == "warn"
        and "rpo" in found["likelihood displacement"].remedy
    )
    assert named(preference_trace(8, chosen=-0.9, rejected=-3))["likelihood displacement"].severity == "stop"
    trace = preference_trace(8, chosen=-0.2, rejected=-0.9)
    trace.rows[-1]["eval_chosen_change"] = 0.1  # the held-out pairs have the last word
    assert "likelihood displacement" not in named(trace)


def test_held_out_loss_that_rises_while_training_loss_falls_is_overfitting():
    trace = sft_trace(9)
    for row in trace.rows:
        if "eval_loss" in row and row["step"] > 100:
            row["eval_loss"] += (row["step"] - 100) * 0.005
    found = named(trace)["overfitting"]
    assert found.unit == "step" and "lowest" in found.remedy
    few = replace(trace, rows=[r for r in trace.rows if r["step"] <= 30 or r["step"] == 200])
    assert any("5 are needed" in look.unseen for look in looks(few))


def changed(trace, name, value, where):
    for row in trace.rows:
        if where(row["step"]):
            row[name] = value(row.get(name, 0.0))
    return trace


@pytest.mark.parametrize(
    ("name", "value", "where", "severity", "words"),
    [
        (
            "grad_norm",
            lambda v: v * 100,
            lambda s: s > 100 and s % 9 == 0,
            "warn",
            "the gradient norm was over 8",
        ),
        ("loss", lambda v: v * 4, lambda s: s > 100 and s % 9 == 0, "warn", "the loss was over 8"),
        ("loss", lambda v: v + 2, lambda s: s > 170, "stop", "the loss was 1."),
        ("loss", lambda v: float("nan"), lambda s: s == 150, "stop", "loss is nan"),
        ("grad_norm", lambda v: float("inf"), lambda s: s == 150, "stop", "grad_norm is inf"),
    ],
)
def test_instability(name, value, where, severity, words):
    found = named(changed(sft_trace(10), name, value, where))["instability"]
    assert found.severity == severity and words in found.evidence


def test_skipped_steps_of_float16_are_no_instability_until_they_are_many():
    def overflowing(every):
        trace, scale = sft_trace(11), 2.0**14
        for row in trace.rows:
            if row["step"] % every == 0:
                scale /= 2
                row |= {"grad_norm": float("inf"), "learning_rate": 0.0}
            row["loss_scale"] = scale
        return trace

    assert not named(overflowing(150))
    assert named(overflowing(18))["instability"].severity == "warn"
    assert "loss scale fell" in named(overflowing(12))["instability"].evidence


def test_a_run_that_stopped_for_a_number_that_is_none_never_logged_it():
    trace = replace(sft_trace(12), ending="The loss of step 201 is nan, from rows.jsonl:7. Nothing was saved")
    found = named(trace)["instability"]
    assert found.round == 201 and found.severity == "stop" and "rows.jsonl:7" in found.evidence


def test_what_could_not_be_looked_at_is_said():
    bare = Trace([{"step": 1, "round": 0, "reward": 0.5}], {"command": "rl"})
    unseen = {look.name for look in looks(bare) if look.unseen}
    assert {"health of the rounds", "words and formatting", "variety of answers", "held-out tasks"} <= unseen
    assert all(look.unseen for look in looks(Trace()))
    no_held_out = looks(rl_trace(0, heldout=None))
    assert any("reward hacking not seen" in look.unseen for look in no_held_out)
    json.dumps([look.saw for look in no_held_out])


def test_a_fall_within_noise_is_not_forgotten_tasks():
    rows = [{"step": i, "heldout_score": s, "heldout_solved": s} for i, s in enumerate((0.49, 0.53, 0.50))]
    look = forgetting(Trace(rows, {"settings": {"test_tasks": 100}}))
    assert look.saw and not look.findings


def test_a_held_out_score_belongs_to_the_rounds_after_it():
    """Measured after the updates of round 3: the round that begins next looks at it."""
    rows = [{"step": 4, "round": 3, "heldout_score": 0.5, "heldout_solved": 0.5}]
    assert measurements(Trace(rows, {"settings": {"test_tasks": 10}})) == {3: (1.0, 0.0)}


def test_held_out_loss_that_rises_with_the_training_loss_is_not_overfitting():
    trace = sft_trace(13)
    for row in trace.rows:
        late = max(row["step"] - 100, 0) * 0.005
        row["loss"] += late
        if "eval_loss" in row:
            row["eval_loss"] += late
    assert "overfitting" not in named(trace)


def test_a_word_that_was_common_before_is_no_surge():
    """From a half to nearly all answers: more than chance and over 20 points, but not three times as many."""
    trace = rl_trace(14, lambda rng, p, text, right: text + " indeed" * (rng.random() < 0.5 + 0.45 * p))
    assert "phrase surge" not in named(trace)
