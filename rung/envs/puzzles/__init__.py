"""Twenty puzzles of our own for whole programs, from easy (1) to hard (5), each with one answer to print.

Each puzzle is one TOML file: difficulty, statement, answer, and solutions in Python, C++ and JavaScript that reach
the answer by different ways. The folder of its name holds solutions in further languages, each in the file that the
language's compiler is given (`main.go`, `Main.java`). The tests run them all; that they agree is why the answer can
be believed.
"""
