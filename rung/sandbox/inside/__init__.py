"""Files that run inside a sandbox with nothing but Python's standard library: they import no rung."""
