"""`rung sft`: train on demonstrations."""

from __future__ import annotations

from rung.commands.resume import resumed
from rung.errors import UserError
from rung.settings import Sft


def main(settings: Sft) -> int:
    if settings.resume:
        settings = resumed(settings, "sft")
    elif not settings.data:
        raise UserError("No data was given. Write --data FILE, for example --data rows.jsonl.")
    from rung.pipelines.sft import sft

    sft(settings)
    return 0
