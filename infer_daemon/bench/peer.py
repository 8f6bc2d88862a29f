"""What vLLM's own server needs to be the engine of a configuration: `python -m ... CONFIG`.

Prints one line of JSON: the arguments and the environment. Asks the daemon's own code, so it
imports vLLM.
"""

import json
import sys
from pathlib import Path

from infer_daemon.engines.vllm import arguments
from infer_daemon.engines.vllm.factory import VllmFactory
from infer_daemon.engines.vllm.plugin import NAP_ENV
from infer_daemon.settings.load import load


def main(config: Path) -> None:
    """Print it."""
    settings = load(config)
    [(name, engine)] = settings.engines.items()
    served = [name for name, model in settings.models.items() if not model.lora]
    adapters = {name: model.lora for name, model in settings.models.items() if model.lora}
    argv = arguments.argv(engine, served, loras=len(adapters))
    if adapters:
        argv.append("--lora-modules")
        argv += [f"{name}={arguments.model_path(lora)}" for name, lora in adapters.items()]
    env = VllmFactory({name: engine}).child_env(name, engine)
    env.pop(NAP_ENV, None)  # the peer is vLLM as it ships
    sys.stdout.write(json.dumps({"argv": argv, "env": env}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
