"""From settings to a judge: who it is, where its answers are kept, and the reward a judge file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rung.config import parse
from rung.endpoint import Endpoint, is_url
from rung.errors import UserError
from rung.rewards.asking import Budget, Ledger, Model
from rung.rewards.asking_endpoint import EndpointModel
from rung.rewards.critique import CritiqueReward
from rung.rewards.judge import STANDARD, Pointwise
from rung.rewards.rubric import RubricReward, load_rubric
from rung.rewards.score import Reward
from rung.rewards.user import load_reward
from rung.settings_judge import Asking, JudgeReward, Judging


def open_model(name: str, settings: Asking, served_name: str = "") -> Model:
    """A server by its address, or a model on this machine by its name."""
    if is_url(name):
        endpoint = Endpoint(name, served_name, timeout=settings.timeout, patience=settings.patience)
        return EndpointModel(endpoint, settings.concurrency)
    from rung.pipelines.asking_local import LocalModel

    return LocalModel(name, slots=settings.concurrency)


def open_ledger(name: str, settings: Asking, file: Path | None, served_name: str = "") -> Ledger:
    return Ledger(open_model(name, settings, served_name), file, Budget(settings.calls, settings.tokens))


def open_judge(settings: Judging, file: Path | None, command: str) -> Ledger:
    """The judge of a command, which must have been named."""
    if not settings.judge:
        raise UserError(
            f"{command}: nobody judges; add --judge URL (an OpenAI-compatible server, such as `rung serve` runs) or "
            "--judge MODEL"
        )
    return open_ledger(settings.judge, settings, file, settings.judge_name)


def reward_named(spec: str) -> Reward:
    """`--reward`: a judge file (.yaml), reward models (rm:FOLDER), or a function of the user's, FILE.py:function."""
    if spec.startswith("rm:"):
        from rung.pipelines.scoring import scorer_named

        scorer = scorer_named(spec)
        scorer.require_reward()
        return scorer.reward()
    if spec.endswith((".yaml", ".yml")):
        return reward_of_file(Path(spec))
    return load_reward(spec)


def cost_named(spec: str) -> Reward:
    """`--cost.reward`: whatever --reward takes, and cost models."""
    if spec.startswith("rm:"):
        from rung.pipelines.scoring import scorer_named

        return scorer_named(spec).reward()
    return reward_named(spec)


def reward_of_file(file: Path) -> Reward:
    """The reward that a judge file describes: rating, rubric or critique."""
    settings = parse(JudgeReward, ["--config", str(file)], f"judge file {file}")
    beside = file.parent
    rubric = load_rubric(beside / settings.rubric) if settings.rubric else None
    if rubric is not None and settings.by != "rubric":
        raise UserError(
            f"{file}: a rubric is given and by is {settings.by}; write by: rubric, or put it into standard"
        )
    ledger = open_judge(settings, beside / settings.memory, str(file))
    common: dict[str, Any] = {"max_tokens": settings.judge_tokens}
    if settings.by == "rubric":
        return RubricReward(ledger, rubric, settings.aggregation, **common)
    if settings.by == "critique":
        return CritiqueReward(ledger, settings.standard, **common)
    return Pointwise(ledger, settings.standard or STANDARD, **common)
