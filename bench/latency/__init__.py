"""Whole calls, end to end and stage by stage, cold and warm, of ours and of the reference pipeline, in one run.

`plan` says who takes part and with what, `contest` has them take turns, `figures` makes the table and the plot. Each
contender is a process of its own, `child`, which is kept alive, so that memory and cold starts are its own.
"""
