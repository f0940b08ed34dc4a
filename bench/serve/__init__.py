"""Load on real servers over the loopback: ours, and the reference pipeline behind FastAPI, on the same requests.

`plan` says what is asked and when, `load` asks it, `subjects` starts the servers, `contest` has them take turns;
`usage` and `figures` say what came of it. `rival` is the server of the reference pipeline, `overhead` compares a
request with a bare call, `check` refuses what cannot be asked.
"""
