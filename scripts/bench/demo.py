"""What both servers are: the demo's first engine with its adapters, from `config/demo.toml`."""

import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path

from infer_daemon.bench.launches import toml
from infer_daemon.tenancy.registry import key_hash

SCRIPTS = Path(__file__).resolve().parent.parent
REPOSITORY = SCRIPTS.parent
DEMO_CONFIG = REPOSITORY / "config" / "demo.toml"
ENGINE = "demo"
MODEL = "demo"


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
    config.write_text(toml(ours))
    return Demo(folder, config, key)
