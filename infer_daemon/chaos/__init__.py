"""`scripts/chaos`: a daemon is hurt under load, and whatever it promises is checked from outside.

Each fault starts a daemon of its own (`house`), has clients of several tenants ask it without end
(`crowd`, of `questions` whose answers are known from an undisturbed run), does its harm, and says
what became of the requests, of the engines (`engine_log`) and of what may not be left behind
(`remains`). `blows` is what is done to an engine's processes. The faults themselves are in
`engines`, `loading`, `storage`, `visitors` and `endings`; `command` runs them and reports. Nothing
here runs inside the daemon, but for `stepped_clock`, which is a daemon whose clock can be stepped.
"""
