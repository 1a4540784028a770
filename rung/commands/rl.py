"""`rung rl` and `rung grpo`: reinforcement learning from verifiable rewards."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_rl import Grpo, Rl

__all__ = ["Grpo", "Rl", "grpo", "main"]


def main(settings: Rl, command: str = "rl") -> int:
    if settings.resume:
        settings = resumed(settings, command)
    elif not settings.env:
        raise UserError(
            "No environment was given. Write --env SPEC, for example --env arithmetic; "
            "`rung envs list` shows what there is."
        )
    from rung.pipelines.rl import rl

    rl(settings, command)
    return 0


def grpo(settings: Grpo) -> int:
    return main(settings, "grpo")
