"""The parts of `scripts/bench_peers`: the daemon and vLLM's own server, side by side.

`demo` says what both servers are, `load` (a process of its own) sends requests, `measure` runs the
load and reads the daemon's metrics, `report` compares and prints, `cli` puts them in order. Servers
and the HTTP client are those of `infer_daemon.bench`.
"""
