"""`rung self-train`: sample, keep what is right, train, and again."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_self_training import SelfTrain

__all__ = ["SelfTrain", "main"]


def main(settings: SelfTrain) -> int:
    if settings.resume:
        settings = resumed(settings, "self-train")
    elif not settings.rft.env:
        raise UserError(
            "No environment was given. Write --rft.env SPEC, for example --rft.env arithmetic; "
            "`rung envs list` shows what there is."
        )
    from rung.pipelines.self_training import self_train

    self_train(settings)
    return 0
