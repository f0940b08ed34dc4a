"""The HTTP service. Nothing else in the runtime imports it: the extra `serve` brings what it needs.

From the pipeline outwards: `child` is the process of a pipeline and `worker` its owner; `service` queues calls, each a
`ticket`, and runs them; `fields` says what a body may hold, `handlers` what each path does, in `answers`, `streams` and
`jobs`; `app` puts the application together, with `requests` and `protocol` around it; `cli` is the program, and
`ray_app` the same for Ray Serve.
"""
