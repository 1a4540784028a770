"""Runs programs that nobody vouches for, and says how they ended. See docs/sandbox.md for what it promises."""
