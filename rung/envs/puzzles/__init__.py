"""Twenty puzzles of our own for whole programs, from easy (1) to hard (5), each with one answer to print.

Each puzzle is one TOML file: difficulty, statement, answer, and solutions in several languages that reach the
answer by different ways. The tests run them all; that they agree is why the answer can be believed.
"""
