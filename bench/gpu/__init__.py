"""Whole calls on a GPU at base size: our engines against diffusers in FP16, eager and compiled, all in one run.

`contest` measures every contender and prints the table, whose figures `figures` works out. Each contender and size of
batch is a process of its own, `child`, so that the memory which is measured is its own. What has not been measured on a
GPU yet is listed in TODO.md.
"""
