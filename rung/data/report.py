"""What became of the rows of a data set: kept, dropped and why, lengths, trained share, duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rung.batch import Example

PERCENTILES = (0, 50, 90, 99, 100)


@dataclass(frozen=True)
class Report:
    """Counts over all rows of all sources."""

    rows: int  # rows read
    kept: int  # rows that are trained on
    refused: int  # rows that cannot be used; training stops at the first, `rung data check` counts them
    drops: dict[str, int]  # rows left out by rule: reason -> how many
    truncated: int  # examples whose end was cut
    examples: int  # sequences made of the kept rows
    forks: int  # sequences beyond one per document, where a template rewrites history
    tokens: int
    supervised: int  # trained tokens among them
    lengths: dict[int, int]  # percentile -> tokens
    duplicates: int  # kept rows that repeat an earlier one token by token

    @property
    def supervised_share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 0.0

    def lines(self) -> list[tuple[str, str]]:
        """Names and values, for a table or a log."""
        table = [("rows", f"{self.rows:,}"), ("kept", f"{self.kept:,}")]
        table += [("unusable", f"{self.refused:,}")] if self.refused else []
        table += [(f"dropped: {reason}", f"{count:,}") for reason, count in sorted(self.drops.items())]
        table += [("truncated", f"{self.truncated:,}")] if self.truncated else []
        table += [("sequences", f"{self.examples:,}")]
        table += [("forks of rewritten history", f"{self.forks:,}")] if self.forks else []
        table += [
            ("tokens", f"{self.tokens:,}"),
            ("trained tokens", f"{self.supervised:,} ({self.supervised_share:.1%})"),
            ("exact duplicates", f"{self.duplicates:,}"),
        ]
        names = {0: "shortest", 50: "median", 100: "longest"}
        spread = ", ".join(f"{names.get(p, f'p{p}')} {n:,}" for p, n in self.lengths.items())
        return [*table, ("tokens per sequence", spread or "none")]


@dataclass
class Tally:
    """Counts while rows go by; `report` freezes it."""

    rows: int = 0
    kept: int = 0
    refused: int = 0
    truncated: int = 0
    forks: int = 0
    supervised: int = 0
    duplicates: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    stream: hashlib._Hash = field(default_factory=hashlib.sha256)

    def keep(self, examples: Sequence[Example]) -> None:
        """Count a row that is trained on, with all its examples."""
        self.kept += 1
        digest = hashlib.sha256()
        for example in examples:
            self.lengths.append(len(example))
            self.supervised += int(example.trained[1:].sum())
            digest.update(len(example).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(example.token_ids, dtype=np.int32).tobytes())
            digest.update(example.trained.tobytes())
        self.stream.update(digest.digest())
        self.duplicates += digest.digest() in self.seen
        self.seen.add(digest.digest())

    def report(self) -> Report:
        spread = np.percentile(self.lengths, PERCENTILES, method="inverted_cdf") if self.lengths else ()
        return Report(
            rows=self.rows,
            kept=self.kept,
            refused=self.refused,
            drops=dict(self.drops),
            truncated=self.truncated,
            examples=len(self.lengths),
            forks=self.forks,
            tokens=sum(self.lengths),
            supervised=self.supervised,
            lengths={p: int(n) for p, n in zip(PERCENTILES, spread, strict=False)},
            duplicates=self.duplicates,
        )
