"""The text the demo models are trained on, and the code that draws training samples from it.

Text lives in the `.toml` files beside this module; nothing here knows about tensors or models.
"""
