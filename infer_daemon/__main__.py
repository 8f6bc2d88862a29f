"""`python -m infer_daemon`: the same as the console script.

vLLM spawns its engine processes by importing this module again under another name, so it must stay
light and do nothing unless it is the program that was started.
"""

from infer_daemon.cli import run

if __name__ == "__main__":
    # `multiprocessing` imports no main module that is a package's `__main__`, but any by its path.
    __spec__ = None
    run()
