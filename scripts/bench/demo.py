"""What both servers are: the demo's first engine with its adapters, from `config/demo.toml`.

vLLM's own server gets the command line and the environment that the daemon would give the same
engine, so neither can drift from the other.
"""

import json
import os
import secrets
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.servers import HOST, Launch, ServerProblem, free_port
from infer_daemon.tenancy.registry import key_hash

SCRIPTS = Path(__file__).resolve().parent.parent
REPOSITORY = SCRIPTS.parent
DEMO_CONFIG = REPOSITORY / "config" / "demo.toml"
ENGINE = "demo"
MODEL = "demo"

_OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


@dataclass(frozen=True, slots=True)
class Demo:
    """The configuration that was written for this benchmark."""

    folder: Path
    config: Path
    key: str

    @property
    def state_dir(self) -> Path:
        """Of the daemon."""
        return self.folder / "state"

    @property
    def socket(self) -> Path:
        """The daemon's Unix socket."""
        return self.state_dir / "api.sock"


def write(folder: Path) -> Demo:
    """Take one engine and its models out of the demo's configuration, and make a tenant."""
    whole = tomllib.loads(DEMO_CONFIG.read_text())
    key = f"sk-bench-{secrets.token_hex(12)}"
    ours = {
        "daemon": whole.get("daemon", {}),
        "scheduling": whole.get("scheduling", {}),
        "engines": {ENGINE: whole["engines"][ENGINE]},
        "models": {
            name: model for name, model in whole["models"].items() if model["engines"] == [ENGINE]
        },
        "tenants": {"bench": {"key_hashes": [key_hash(key)]}},
    }
    config = folder / "bench.toml"
    config.write_text("".join(f"{name} = {_toml(table)}\n" for name, table in ours.items()))
    return Demo(folder, config, key)


def daemon(demo: Demo) -> Launch:
    """How to start the daemon."""
    port = free_port()
    command = [sys.executable, "-m", "infer_daemon", "serve", "--config", str(demo.config)]
    return Launch(
        name="daemon",
        argv=[*command, "--port", str(port), "--state-dir", str(demo.state_dir)],
        env=_environment(),
        cwd=REPOSITORY,
        log=demo.folder / "daemon.log",
        port=port,
        ready_path="/ready",
    )


def peer(demo: Demo, name: str, *, our_environment: bool) -> Launch:
    """How to start vLLM's own server.

    Args:
        our_environment: with the variables that the daemon gives its engine (compute threads, no
            compiler), too, and not only with its arguments.
    """
    port = free_port()
    # In a process of its own: importing vLLM takes seconds and starts threads.
    done = subprocess.run(
        [sys.executable, "-m", "bench.peer", str(demo.config)],
        cwd=SCRIPTS,
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
        cwd=REPOSITORY,
        log=demo.folder / f"{name}.log",
        port=port,
        ready_path="/health",
    )


def _environment() -> dict[str, str]:
    """Ours, without what would make one of the servers something other than it ships as."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VLLM_", "INFER_DAEMON_", "OMP_"))
    }
    return {**own, **_OFFLINE}


def _toml(value: Any) -> str:
    """A value as inline TOML; the standard library only reads it."""
    match value:
        case dict():
            items = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
            return "{ " + ", ".join(items) + " }"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return json.dumps(value)  # the same for strings, numbers and booleans
