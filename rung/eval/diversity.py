"""How varied the answers to one prompt are: in words, in overlap, in surprise, in meaning.

    distinct-n       different n-grams over all n-grams (Li et al. 2016)
    self-BLEU        mean BLEU of each answer against the others (Zhu et al. 2018); 1 is all the same
    entropy          of the words that occur, in nats; the plug-in estimate, low for few words
    semantic spread  mean cosine distance between the embeddings of two answers

Longer answers repeat themselves more, so distinct-n falls and entropy rises with length alone: compare models
at the same number of words each (`words`), or not at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import exp, log

import numpy as np

WORD = re.compile(r"\w+|[^\w\s]")


def split(text: str, words: int | None = None) -> list[str]:
    """Words and single marks, in lower case; only the first `words` of them."""
    return WORD.findall(text.lower())[:words]


def grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def distinct(texts: Sequence[str], n: int = 2, words: int | None = None) -> float:
    """Over all answers together. NaN if none is long enough to have an n-gram."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts += grams(split(text, words), n)
    return len(counts) / counts.total() if counts else float("nan")


def self_bleu(texts: Sequence[str], most: int = 4, words: int | None = None) -> float:
    """The mean over answers of BLEU against all the others, n-grams up to `most` with equal weights.

        BLEU = min(1, exp(1 - r / c)) prod_n p_n^(1/N),  p_1 = matches / count,  p_n = (matches + 1) / (count + 1)

    Matches are clipped to the most that any one other answer holds; r is the length of the other answer
    nearest in length to c (the shorter of two). Add-one from bigrams on (Lin and Och 2004). N is the longest
    n-gram the answer has, so a two-word answer is judged on its two words. An empty answer scores 0.
    """
    if len(texts) < 2:
        raise ValueError("self-BLEU compares answers, and needs at least two")
    tokens = [split(text, words) for text in texts]
    counts = [[grams(each, n) for each in tokens] for n in range(1, most + 1)]
    held = [two_most(each) for each in counts]
    return float(np.mean([bleu_of(i, tokens, counts, held) for i in range(len(tokens))]))


def two_most(counts: Sequence[Counter]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram: its largest count in one answer, which answer, and the largest in any other answer."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, each in enumerate(counts):
        for gram, count in each.items():
            most, who, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, i, most) if count > most else (most, who, max(second, count))
    return found


def bleu_of(i: int, tokens: Sequence[Sequence[str]], counts, held) -> float:
    own = len(tokens[i])
    if not own:
        return 0.0
    order = min(len(counts), own)
    total = 0.0
    for n in range(order):
        others = {
            g: second if who == i else most for g, (most, who, second) in held[n].items() if g in counts[n][i]
        }
        matches = sum(min(count, others[gram]) for gram, count in counts[n][i].items())
        extra = 1 if n else 0
        if matches + extra == 0:
            return 0.0
        total += log((matches + extra) / (own - n + extra))
    nearest = min((abs(len(t) - own), len(t)) for j, t in enumerate(tokens) if j != i)[1]
    return min(1.0, exp(1 - nearest / own)) * exp(total / order)


def word_entropy(texts: Sequence[str], words: int | None = None) -> float:
    """-sum p log p over the words of all answers together."""
    counts = Counter(word for text in texts for word in split(text, words))
    total = counts.total()
    return -sum(c / total * log(c / total) for c in counts.values()) if total else 0.0


def mean_token_entropy(entropies: Sequence[np.ndarray]) -> float:
    """The model's own entropy, nats per token, over all tokens of all answers."""
    tokens = sum(len(each) for each in entropies)
    return float(sum(float(each.sum()) for each in entropies) / tokens) if tokens else float("nan")


def semantic_spread(embeddings: np.ndarray) -> float:
    """Mean of 1 - cosine over all pairs. With unit vectors u: 1 - (|sum u|^2 - n) / (n (n - 1))."""
    vectors = np.asarray(embeddings, float)
    count = len(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if count < 2 or not lengths.all():
        raise ValueError("the spread needs at least two embeddings, none of them zero")
    total = (vectors / lengths).sum(0)
    return float(1 - (total @ total - count) / (count * (count - 1)))
