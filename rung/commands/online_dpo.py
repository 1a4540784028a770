"""`rung online-dpo`: preference learning from pairs that the policy itself writes."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_online_dpo import OnlineDpo

__all__ = ["OnlineDpo", "main"]


def main(settings: OnlineDpo) -> int:
    if settings.resume:
        settings = resumed(settings, "online-dpo")
    elif not settings.env:
        raise UserError(
            "No environment was given. Write --env SPEC, for example --env arithmetic or --env rows:prompts.jsonl; "
            "its tasks are the prompts."
        )
    from rung.pipelines.online_dpo import online_dpo

    online_dpo(settings)
    return 0
