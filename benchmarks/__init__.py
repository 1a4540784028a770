"""What `rung bench NAME` runs: one file a benchmark, each with `main(argv) -> int`."""
