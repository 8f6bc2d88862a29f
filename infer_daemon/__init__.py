"""infer-daemon: one process, several vLLM engines, one OpenAI-compatible door.

Read `request_path.py` first: the way of a request, in nine verbs.
"""

__version__ = "0.1.0"
