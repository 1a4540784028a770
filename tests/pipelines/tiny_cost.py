"""A cost for the tiny model: `tiny_cost.py:odd`."""


def odd(attempt) -> float:
    """Share of odd token ids, times two."""
    return 2 * sum(token % 2 for token in attempt.token_ids) / len(attempt.token_ids)
