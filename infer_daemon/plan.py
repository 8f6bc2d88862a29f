"""What a configuration means on this machine: `infer-daemon check`."""

import logging
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from infer_daemon.engines.memory import available_bytes
from infer_daemon.settings.load import printable
from infer_daemon.settings.schema import EngineSection, Settings
from infer_daemon.settings.state_folder import StateFolder
from infer_daemon.terminal import console

if TYPE_CHECKING:
    from infer_daemon.engines.vllm.factory import VllmFactory


def missing(settings: Settings) -> list[str]:
    """What must be installed and is not."""
    if all(engine.kind != "vllm" for engine in settings.engines.values()):
        return []
    if find_spec("vllm") is None:
        return ["$.engines: vLLM is not installed (pip install 'infer-daemon[cpu]' or '[cuda]')"]
    if not entry_points(group="vllm.general_plugins", name="infer_daemon"):
        return ["$.engines: infer-daemon is not installed (pip install .), so vLLM cannot find it"]
    return []


def problems(settings: Settings) -> list[str]:
    """What only vLLM itself can judge: models and arguments of its engines."""
    engines = {name: e for name, e in settings.engines.items() if e.kind == "vllm"}
    found = missing(settings)
    if found or not engines:
        return found
    logging.getLogger("vllm").setLevel(logging.ERROR)  # what it says of itself is not the file's
    from infer_daemon.engines.vllm import arguments

    for name, engine in engines.items():
        loras = sum(bool(m.lora) for m in settings.models.values() if name in m.engines)
        found += arguments.problems(engine, f"$.engines.{name}", loras=loras)
    for name, model in settings.models.items():
        if model.lora and any(engine in engines for engine in model.engines):
            found += arguments.adapter_problems(model.lora, f"$.models.{name}.lora")
    return found


def show(settings: Settings) -> None:
    """Print the resolved plan."""
    out = console()
    folder = StateFolder.of(settings)
    listen = settings.listen
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_row("http", f"http://{listen.host}:{listen.port}")
    facts.add_row("unix socket", _path(folder.api_socket(settings)))
    facts.add_row("admin socket", _path(folder.admin_socket))
    facts.add_row("tenants", ", ".join(settings.tenants) or "none: nobody can ask anything")
    factory = _factory(settings)
    if factory is not None:
        needed, available = _size(factory.needed_bytes), _size(available_bytes())
        facts.add_row("memory", f"about {needed} for the engines, {available} available")
    out.print(facts)
    engines = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("engine", "kind", "model", "runs on", "KV cache", "window", "models"):
        engines.add_column(column, overflow="fold")
    for name, engine in settings.engines.items():
        served = [model for model, section in settings.models.items() if name in section.engines]
        engines.add_row(
            name,
            engine.kind,
            Text(printable(engine.model)),
            _place(name, engine, factory),
            _size(engine.kv_cache_memory_bytes) if engine.kind == "vllm" else "simulated",
            _window(engine),
            ", ".join(served),
        )
    out.print(engines)
    out.print("The configuration is valid.")


def _path(path: Path | None) -> Text:
    return Text("none" if path is None else printable(str(path)))


def _factory(settings: Settings) -> "VllmFactory | None":
    engines = {n: e for n, e in settings.engines.items() if e.kind == "vllm"}
    if not engines:
        return None
    from infer_daemon.engines.vllm.factory import VllmFactory

    return VllmFactory(engines)


def _place(name: str, engine: EngineSection, factory: "VllmFactory | None") -> str:
    """The devices or cores that an engine gets."""
    if factory is None or engine.kind == "sim":
        return "nothing"
    if name in factory.cpu_bindings:
        cores = factory.cpu_bindings[name]
        return f"CPU cores {cores}" if cores else "CPU, any core"
    return f"GPU {', '.join(map(str, engine.devices))}" if engine.devices else "the first GPU"


def _window(engine: EngineSection) -> str:
    """What of its sequences the engine is given at once; see `engines.pool.window_limits`."""
    most, given = engine.max_num_seqs, engine.window.seqs
    return f"{most} sequences" if given is None or given >= most else f"{given} of {most} sequences"


def _size(size_bytes: int | None) -> str:
    return "vLLM decides" if size_bytes is None else f"{size_bytes / 2**20:,.0f} MiB"
