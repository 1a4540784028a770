"""The decision table: every combination of signals has an answer, and who beats whom is written here by hand."""

import itertools
from pathlib import Path

import pytest

from rung import diagnose
from rung.errors import UserError
from rung.metrics import METRICS
from rung.pipelines.advice import CEILINGS, FAILURES, OTHERWISE, SIGNALS, STEPS, TABLE, decide


def subsets(names):
    return [set(some) for n in range(1, len(names) + 1) for some in itertools.combinations(names, n)]


COMBINATIONS = subsets(SIGNALS)


def test_there_are_127_combinations_and_each_has_an_answer_from_its_own_signals():
    assert len(COMBINATIONS) == 127
    for signals in COMBINATIONS:
        advice = decide(signals)
        assert advice.chosen.needs <= signals and advice.chosen.needs
        assert advice.alternative is not None and advice.alternative.needs <= signals
        assert advice.alternative is not advice.chosen and not advice.extra_risks
        assert set(advice.unused) == signals - advice.chosen.needs
        assert not {advice.chosen, advice.alternative} & set(advice.further)
        assert all(row.needs <= advice.chosen.needs for row in advice.further)


def test_what_cannot_be_afforded_is_never_risked():
    refused = 0
    for signals, afford in itertools.product(COMBINATIONS, [{"none"}, *subsets(FAILURES)]):
        allowed = afford - {"none"}
        possible = [row for row in TABLE if row.needs <= signals and row.risks <= allowed]
        if not possible:
            refused += 1
            with pytest.raises(UserError, match="bring another signal"):
                decide(signals, afford)
            continue
        advice = decide(signals, afford)
        assert advice.chosen.risks <= allowed and advice.chosen in possible
        assert all(row.risks <= allowed and row in possible for row in advice.further)
        if advice.alternative is not None:
            assert advice.extra_risks == advice.alternative.risks - allowed
            assert bool(advice.extra_risks) == (len(possible) == 1)  # only where nothing affordable is left
    assert refused


WINNERS = {
    "demonstrations": "SFT",
    "pairs": "DPO",
    "thumbs": "KTO",
    "verifier": "GRPO",
    "reward": "PPO on a reward model",
    "judge": "RLAIF: DPO on a judge's pairs",
    "teacher": "on-policy distillation",
    "demonstrations pairs": "DPO after SFT",
    "demonstrations thumbs": "KTO after SFT",
    "demonstrations verifier": "GRPO after SFT",
    "demonstrations judge": "RLAIF: DPO on a judge's pairs",
    "demonstrations teacher": "on-policy distillation",
    "teacher verifier": "GRPO after a teacher's checked answers",
    "pairs thumbs": "DPO",
    "pairs reward": "DPO",
    "thumbs reward": "KTO",
    "judge reward": "PPO on a reward model",
    "demonstrations reward": "PPO on a reward model",
    "verifier reward": "GRPO",
    "pairs judge": "DPO",
    "pairs teacher": "on-policy distillation",
    "pairs verifier": "GRPO",
    "thumbs judge": "KTO",
    "thumbs verifier": "GRPO",
    "judge verifier": "GRPO",
    "judge teacher": "on-policy distillation",
    "demonstrations pairs thumbs judge": "DPO after SFT",
    "demonstrations pairs thumbs verifier judge teacher": "GRPO after a teacher's checked answers",
}


@pytest.mark.parametrize(("signals", "method"), WINNERS.items())
def test_which_signal_dominates(signals, method):
    assert decide(signals.split()).chosen.method == method


@pytest.mark.parametrize(
    ("signals", "barred", "method"),
    [
        ("verifier", "entropy-collapse", "DAPO"),
        ("verifier", "sampling", "rejection sampling"),
        ("verifier demonstrations", "sampling mode-collapse", "rejection sampling, mixed"),
        ("verifier demonstrations", "forgetting", "GRPO"),
        ("verifier teacher", "sampling", "SFT on a teacher's checked answers"),
        ("teacher", "sampling", "SFT on a teacher's answers"),
        ("teacher demonstrations", "mode-collapse", "distillation on rows"),
        ("pairs", "displacement", "RPO"),
        ("pairs", "over-optimisation", "IPO"),
        ("pairs demonstrations", "forgetting", "DPO"),
        ("judge", "over-optimisation", "SFT on revised answers"),
        ("judge", "displacement", "GRPO with a judge"),
        ("demonstrations", "forgetting", "SFT with LoRA"),
    ],
)
def test_a_failure_that_cannot_be_afforded_changes_the_method(signals, barred, method):
    afford = set(FAILURES) - set(barred.split())
    assert decide(signals.split(), afford).chosen.method == method


@pytest.mark.parametrize(
    ("signal", "method"),
    [
        ("verifier", "online DPO"),
        ("pairs", "online DPO by a reward model"),
        ("reward", "online DPO on a reward model"),
        ("judge", "online DPO with a judge"),
    ],
)
def test_online_dpo_is_an_answer_wherever_something_can_compare_two_answers(signal, method):
    """Not the first: what stands before it risks less. It is named all the same, unless it cannot be afforded."""
    advice = decide([signal])
    assert method in {row.method for row in (advice.alternative, *advice.further) if row}
    advice = decide([signal], set(FAILURES) - {"displacement"})
    assert method not in {row.method for row in (advice.chosen, *advice.further)}
    for other in {"demonstrations", "thumbs", "teacher"}:
        answered = decide([other])
        rows = (answered.chosen, answered.alternative, *answered.further)
        assert not any("online DPO" in row.method for row in rows if row)


def test_what_is_further_is_the_rest_of_what_the_same_signals_allow():
    names = [
        row.method for row in decide(["pairs", "judge"]).further
    ]  # the judge is not what DPO learns from
    assert names == ["IPO", "RLHF", "online DPO by a reward model"]
    assert [row.method for row in decide(["pairs"], ["over-optimisation", "sampling"]).further] == []
    assert [row.method for row in decide(["judge"]).further] == [
        "GRPO with a judge",
        "SFT on revised answers",
    ]


def test_nothing_can_go_wrong_only_with_adapters_on_demonstrations():
    assert decide(["demonstrations"], ["none"]).chosen.method == "SFT with LoRA"
    with pytest.raises(UserError, match="DPO risks displacement, over-optimisation"):
        decide(["pairs"], ["none"])


def test_a_teacher_behind_a_server_is_not_sampled_by_rft():
    for signals in COMBINATIONS:
        advice = decide(signals, served=True)
        rows = [row for row in (advice.chosen, advice.alternative, *advice.further) if row]
        assert not any(step.startswith("ask") for row in rows for step in row.steps)
    assert decide(["teacher"], served=True).alternative is None
    assert decide(["teacher", "verifier"], served=True).chosen.method == "GRPO"


@pytest.mark.parametrize(
    ("signals", "afford", "message"),
    [
        ([], [], "no signal was named"),
        (["paris"], [], "'paris' is no signal"),
        (["pairs"], ["goodhart"], "'goodhart' is no failure"),
        (["pairs"], ["none", "sampling"], "none and sampling"),
    ],
)
def test_what_contradicts_itself_is_refused(signals, afford, message):
    with pytest.raises(UserError, match=message):
        decide(signals, afford)


def test_the_table_uses_its_own_words_and_no_row_is_out_of_reach():
    assert OTHERWISE.keys() == SIGNALS.keys()
    assert {step for row in TABLE for step in row.steps} == STEPS.keys()
    assert {row.ceiling for row in TABLE} == CEILINGS.keys()
    assert set().union(*(row.needs for row in TABLE)) == SIGNALS.keys()
    assert set().union(*(row.risks for row in TABLE)) == FAILURES.keys()
    for row in TABLE:  # some answer to the questions leads to it
        afforded = [row.risks or {"none"}, *subsets(FAILURES)]
        answers = [decide(row.needs, some) for some in afforded if row.risks <= set(some) - {"none"}]
        assert any(row in (advice.chosen, advice.alternative, *advice.further) for advice in answers), (
            row.method
        )
    never_first = {row.method for row in TABLE if decide(row.needs, row.risks or {"none"}).chosen is not row}
    assert never_first == {
        "RLHF",
        "best of n by a reward model",
        "online DPO",
        "online DPO by a reward model",
        "online DPO on a reward model",
        "online DPO with a judge",
        "best of n by the reward model",
    }  # what they risk, a cheaper method risks too


def test_what_shows_a_failure_is_a_finding_or_a_metric_of_rung():
    sources = "".join(path.read_text() for path in Path(diagnose.__path__[0]).glob("*.py"))
    for failure in FAILURES.values():
        for name in failure.shown:
            assert f'"{name}"' in sources or name in METRICS
