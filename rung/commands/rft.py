"""`rung rft` and `rung ssd`: a model's own answers as demonstrations for `rung sft`."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_self_training import Rft, Ssd

__all__ = ["Rft", "Ssd", "main"]


def main(settings: Rft) -> int:
    command = type(settings).__name__.lower()
    if settings.resume:
        settings = resumed(settings, command)
    elif not settings.env:
        raise UserError(
            "No environment was given. Write --env SPEC, for example --env arithmetic; "
            "`rung envs list` shows what there is."
        )
    from rung.pipelines.rejection import rft

    rft(settings, command)
    return 0
