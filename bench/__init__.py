"""Benchmarks, each rival timed in the same run: `python -m bench NAME`. Results go to `bench/results/`."""
