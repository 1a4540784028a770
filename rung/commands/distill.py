"""`rung distill` and `rung distill-on-policy`: learn from a teacher, on data or on what the student writes."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_distill import Distill, DistillOnPolicy

__all__ = ["Distill", "DistillOnPolicy", "main", "on_policy"]


def main(settings: Distill) -> int:
    if settings.resume:
        settings = resumed(settings, "distill")
    elif not settings.data:
        raise UserError("No data was given. Write --data FILE, for example --data rows.jsonl.")
    from rung.pipelines.distill import distill

    distill(settings)
    return 0


def on_policy(settings: DistillOnPolicy) -> int:
    if settings.resume:
        settings = resumed(settings, "distill-on-policy")
    elif not settings.env:
        raise UserError("No environment was given. Write --env SPEC; its tasks are the prompts.")
    from rung.pipelines.distill_on_policy import distill_on_policy

    distill_on_policy(settings)
    return 0
