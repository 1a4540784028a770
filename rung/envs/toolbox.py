"""The tools that come with rung: a calculator, search over a small corpus, Python in a sandbox given from outside."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rung.envs.calculator import NotArithmetic, evaluate, shown
from rung.envs.tools import Tool, ToolError


def calculator() -> Tool:
    def run(expression: str) -> str:
        try:
            return shown(evaluate(expression))
        except NotArithmetic as error:
            raise ToolError(f"{error}. Write numbers, + - * / ** % and brackets.") from error

    return Tool(
        "calculator",
        "Exact arithmetic.",
        {"expression": {"type": "string"}},
        {"expression": "12 * (3 + 4)"},
        run,
    )


def python(run_program: Callable[[str], str]) -> Tool:
    """`run_program` runs a program in a sandbox and returns what it printed, or its error, as text."""
    described, form = "Runs a program and returns what it prints.", {"code": {"type": "string"}}
    return Tool("python", described, form, {"code": "print(2**10)"}, lambda code: run_program(code))


def search(documents: Mapping[str, str], most: int = 3) -> Tool:
    """`documents` are title -> text."""
    index = Index(list(documents.values()))
    titles = list(documents)

    def run(query: str) -> str:
        best = index.best(query, most)
        return "\n".join(f"{titles[i]}: {documents[titles[i]]}" for i in best) or "Nothing found."

    return Tool(
        "search", "Finds documents by their words.", {"query": {"type": "string"}}, {"query": titles[0]}, run
    )


class Index:
    """BM25 (Robertson and Zaragoza 2009, k1 = 1.5, b = 0.75), with the idf that cannot be negative.

    score(q, d) = sum over words w of q:  idf(w) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * |d| / mean |d|))
    idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5)), n the documents that hold w
    """

    def __init__(self, texts: Sequence[str]):
        self.counts = [Counter(words(text)) for text in texts]
        lengths = [count.total() for count in self.counts]
        mean = sum(lengths) / max(len(lengths), 1)
        self.norms = [1.5 * (0.25 + 0.75 * length / max(mean, 1e-9)) for length in lengths]
        holding = Counter(word for count in self.counts for word in count)
        self.idf = {w: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for w, n in holding.items()}

    def score(self, query: str, document: int) -> float:
        count, norm = self.counts[document], self.norms[document]
        return sum(self.idf[w] * count[w] * 2.5 / (count[w] + norm) for w in words(query) if count[w])

    def best(self, query: str, most: int) -> list[int]:
        """The documents with a word of the query, best first, ties in their own order."""
        scores = [self.score(query, document) for document in range(len(self.counts))]
        ranked = sorted(range(len(scores)), key=lambda document: (-scores[document], document))
        return [document for document in ranked[:most] if scores[document] > 0]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
