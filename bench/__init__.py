"""Benchmarks that anyone can rerun; the commands are `dynamicseg bench`."""
