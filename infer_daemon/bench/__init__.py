"""`infer-daemon bench`: what the daemon promises, measured on this machine with the demo model.

Each bench writes a configuration of its own (`demo`), starts `infer-daemon serve` with it and ends
it again (`launches`, `servers`). Load comes from a process of its own (`load`, on `wire`), which is
told what to do (`crowd`) and followed by `generator`. `isolation`, `overload`, `fairness` and
`priority` each put one question; `figures` is their arithmetic, `report` their tables and verdicts,
`cli` the command line. Nothing here runs inside the daemon.
"""
