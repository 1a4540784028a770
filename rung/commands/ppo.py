"""`rung ppo`: reinforcement learning with a critic."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_ppo import Ppo

__all__ = ["Ppo", "main"]


def main(settings: Ppo) -> int:
    if settings.resume:
        settings = resumed(settings, "ppo")
    elif not settings.env:
        raise UserError(
            "No environment was given. Write --env SPEC, for example --env arithmetic; "
            "`rung envs list` shows what there is."
        )
    from rung.pipelines.ppo import ppo

    ppo(settings)
    return 0
