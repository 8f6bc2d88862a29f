"""A simulated engine: the contract of a real one, at the speed you ask for, without torch.

Ships with the package: tests, `config/sim.toml` and load experiments run on it.
"""
