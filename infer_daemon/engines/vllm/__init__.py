"""The only package that imports vLLM. Everything in it may change with a vLLM release.

Nothing is imported here: vLLM loads `plugin` in each of its processes, and must get it cheaply.
"""
