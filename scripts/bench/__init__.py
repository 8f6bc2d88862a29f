"""The parts of `scripts/bench_peers`: the daemon and vLLM's own server, side by side.

`demo` says what both servers are, `servers` starts and stops them, `load` (a process of its own,
on `wire`) sends requests, `measure` runs the load and reads the daemon's metrics, `report` compares
and prints, `cli` puts them in order.
"""
