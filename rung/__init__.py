"""rung: every rung of LLM post-training in one readable codebase.

Importing this package imports neither torch nor transformers, so the command line answers at once.
"""

__version__ = "0.1.0"
