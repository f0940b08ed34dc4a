"""The HTTP service. Nothing else in the runtime imports it: the extra `serve` brings what it needs.

`fields` says what a request may hold, `service` queues calls and runs them, `app` speaks HTTP, `cli` is the program.
"""
