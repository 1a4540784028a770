"""`rung reward`: train a reward model."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings_reward import Reward

__all__ = ["Reward", "main"]

COLUMNS = {
    "pairs": "chosen and rejected",
    "costs": "chosen, rejected, chosen_safe and rejected_safe",
    "outcome": "prompt, completion and label",
    "process": "prompt, completions and labels",
}


def main(settings: Reward) -> int:
    if settings.resume:
        settings = resumed(settings, "reward")
    elif not settings.data:
        raise UserError(
            f"No data was given. Write --data FILE, for example --data rows.jsonl, of rows with {COLUMNS[settings.kind]}."
        )
    from rung.pipelines.reward import reward

    reward(settings)
    return 0
