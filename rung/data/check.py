"""What a data file holds and what is wrong with it: every row read, every problem listed."""

from __future__ import annotations

from dataclasses import dataclass

from rung.data.documents import Encoder
from rung.data.examples import collect, parsed
from rung.data.files import scan
from rung.data.kinds import DEMONSTRATIONS, KINDS, Kind, natural_kind
from rung.data.report import Report, Tally
from rung.data.rows import Overlong
from rung.errors import UserError


@dataclass(frozen=True)
class Checked:
    kind: str  # sft, pairs or feedback: what the rows were read as
    report: Report
    errors: list[str]  # one message per row that cannot be used, in order


def check(spec: str, encoder: Encoder, *, kind: str, max_length: int, overlong: Overlong) -> Checked:
    """Read everything as training would, collecting what training would stop at."""
    signal = kind_of(spec) if kind == "auto" else KINDS[kind]
    tally = Tally()
    errors: list[str] = []

    def note(error: UserError) -> None:
        errors.append(str(error))

    for _ in collect(spec, signal, encoder, max_length, overlong, tally, on_error=note):
        pass
    return Checked(signal.name, tally.report(), errors)


def kind_of(spec: str) -> Kind:
    """What the first readable row of a source was written for."""
    rows = (parsed(raw, origin) for raw, origin in scan(spec))
    first = next((row for row in rows if not isinstance(row, UserError)), None)
    return natural_kind(first) if first else DEMONSTRATIONS
