"""`infer-daemon ledger`: what the ledger tells, on a terminal or for programs."""
