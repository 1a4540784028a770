"""A reward that costs nothing and differs between answers: the share of an answer's characters that are letters."""


def letters(completions, **columns):
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts]
