"""Rows made here, so that nothing is downloaded."""

import random

import datasets

WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "bird", "sun", "moon", "rain"]


def choices(**options):
    dice = random.Random(0)
    rows = [
        {"question": " ".join(dice.sample(WORDS, 4)), "choices": dice.sample(WORDS, 3), "label": i % 3}
        for i in range(12)
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def endings(**options):
    dice = random.Random(1)
    rows = [{"question": " ".join(dice.sample(WORDS, 3)), "answer": dice.choice(WORDS)} for _ in range(8)]
    return {"test": datasets.Dataset.from_list(rows)}
