"""`rung dpo`, `rung ipo`, `rung kto` and their kin: one command for each preference method."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_preference import (
    Apo,
    Dpo,
    Dpop,
    Hinge,
    Ipo,
    Kto,
    Orpo,
    Preference,
    Rpo,
    Simpo,
    Slic,
)

__all__ = ["Apo", "Dpo", "Dpop", "Hinge", "Ipo", "Kto", "Orpo", "Rpo", "Simpo", "Slic", "main"]


def main(settings: Preference) -> int:
    command = type(settings).__name__.lower()
    if settings.resume:
        settings = resumed(settings, command)
    elif not settings.data:
        wanted = "chosen and rejected" if command != "kto" else "completion and label"
        raise UserError(
            f"No data was given. Write --data FILE, for example --data rows.jsonl, of rows with {wanted}."
        )
    from rung.pipelines.preference import preference

    preference(command, settings)
    return 0
