"""Benchmarks: `python -m bench NAME`. Each times its rivals in the same run, and writes to `bench/results/`."""
