"""How to start the two servers of a configuration: the daemon, and vLLM's own.

vLLM's own server gets the command line and the environment that the daemon would give the same
engine, so neither can drift from the other.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import infer_daemon
from infer_daemon.bench.servers import HOST, Launch, ServerProblem, free_port

HOME = Path(infer_daemon.__file__).parent.parent
"""The package is found from here, installed or not."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


def daemon(config: Path, state_dir: Path, name: str = "daemon") -> Launch:
    """How to start the daemon. Its log lies beside its configuration."""
    port = free_port()
    command = [sys.executable, "-m", "infer_daemon", "serve", "--config", str(config)]
    return Launch(
        name=name,
        argv=[*command, "--port", str(port), "--state-dir", str(state_dir)],
        env=_environment(),
        cwd=HOME,
        log=config.with_name(f"{name}.log"),
        port=port,
        ready_path="/ready",
    )


def peer(config: Path, name: str, *, our_environment: bool) -> Launch:
    """How to start vLLM's own server with the only engine of a configuration.

    Args:
        our_environment: with the variables that the daemon gives its engine (compute threads, no
            compiler), too, and not only with its arguments.

    Raises:
        ServerProblem: the engine's arguments cannot be had.
    """
    port = free_port()
    # In a process of its own: importing vLLM takes seconds and starts threads.
    done = subprocess.run(
        [sys.executable, "-m", "infer_daemon.bench.peer", str(config)],
        cwd=HOME,
        env=_environment() | {"VLLM_LOGGING_LEVEL": "ERROR"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ServerProblem(f"the peer's arguments cannot be had:\n{done.stderr}")
    engine = json.loads(done.stdout.splitlines()[-1])
    door = ["--host", HOST, "--port", str(port), "--disable-uvicorn-access-log"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return Launch(
        name=name,
        argv=[*command, *engine["argv"], *door],
        env={**_environment(), **(engine["env"] if our_environment else {})},
        cwd=HOME,
        log=config.with_name(f"{name}.log"),
        port=port,
        ready_path="/health",
    )


def toml(tables: dict[str, Any]) -> str:
    """A file of inline tables; the standard library only reads TOML."""
    return "".join(f"{name} = {_value(table)}\n" for name, table in tables.items())


def _value(value: Any) -> str:
    match value:
        case dict():
            items = (f"{json.dumps(key)} = {_value(item)}" for key, item in value.items())
            return "{ " + ", ".join(items) + " }"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return json.dumps(value)  # the same for strings, numbers and booleans


def _environment() -> dict[str, str]:
    """Ours, without what would make one of the servers something other than it ships as."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VLLM_", "INFER_DAEMON_", "OMP_"))
    }
    return {**own, **_OFFLINE}
