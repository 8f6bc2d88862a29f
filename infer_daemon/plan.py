"""What a configuration means on this machine: `infer-daemon check`."""

from importlib.util import find_spec

from rich.console import Console
from rich.table import Table

from infer_daemon.engines.memory import available_bytes
from infer_daemon.settings.schema import EngineSection, Settings
from infer_daemon.settings.state_folder import StateFolder


def problems(settings: Settings) -> list[str]:
    """What only vLLM itself can judge: models and arguments of its engines."""
    if not any(engine.kind == "vllm" for engine in settings.engines.values()):
        return []
    if find_spec("vllm") is None:
        return ["$.engines: vLLM is not installed (pip install 'infer-daemon[cpu]' or '[cuda]')"]
    from infer_daemon.engines.vllm import arguments

    found: list[str] = []
    for name, engine in settings.engines.items():
        if engine.kind == "vllm":
            loras = sum(bool(m.lora) for m in settings.models.values() if name in m.engines)
            found += arguments.problems(engine, f"$.engines.{name}")
            found += arguments.slot_problems(engine, loras, f"$.engines.{name}")
    for name, model in settings.models.items():
        if model.lora and settings.engines[model.engines[0]].kind == "vllm":
            found += arguments.adapter_problems(model.lora, f"$.models.{name}.lora")
    return found


def show(settings: Settings) -> None:
    """Print the resolved plan."""
    console = Console()
    folder = StateFolder.of(settings)
    listen = settings.listen
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_row("http", f"http://{listen.host}:{listen.port}")
    facts.add_row("unix socket", str(folder.api_socket(settings) or "none"))
    facts.add_row("admin socket", str(folder.admin_socket))
    facts.add_row("tenants", ", ".join(settings.tenants) or "none: nobody can ask anything")
    if memory := _memory(settings):
        facts.add_row("memory", memory)
    console.print(facts)
    engines = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("engine", "kind", "model", "runs on", "KV cache", "window", "models"):
        engines.add_column(column, overflow="fold")
    places = _places(settings)
    for name, engine in settings.engines.items():
        served = [model for model, section in settings.models.items() if name in section.engines]
        engines.add_row(
            name,
            engine.kind,
            engine.model,
            places[name],
            _size(engine.kv_cache_memory_bytes) if engine.kind == "vllm" else "simulated",
            f"{engine.max_num_seqs} sequences",
            ", ".join(served),
        )
    console.print(engines)
    console.print("The configuration is valid.")


def _places(settings: Settings) -> dict[str, str]:
    """Engine name -> the devices or cores it gets."""
    places = {name: _devices(engine) for name, engine in settings.engines.items()}
    vllm_engines = {n: e for n, e in settings.engines.items() if e.kind == "vllm"}
    if vllm_engines:
        from infer_daemon.engines.vllm.factory import VllmFactory

        for name, env in VllmFactory(vllm_engines).cpu_bindings.items():
            places[name] = f"CPU cores {env}" if env else "CPU, any core"
    return places


def _memory(settings: Settings) -> str:
    """What the engines will take of the machine's memory, as far as it can be known beforehand."""
    vllm_engines = {n: e for n, e in settings.engines.items() if e.kind == "vllm"}
    if not vllm_engines:
        return ""
    from infer_daemon.engines.vllm.factory import VllmFactory

    factory = VllmFactory(vllm_engines)
    needed = sum(factory.memory_bytes(engine) for engine in vllm_engines.values())
    return f"about {_size(needed)} for the engines, {_size(available_bytes())} available"


def _devices(engine: EngineSection) -> str:
    if engine.kind == "sim":
        return "nothing"
    return f"GPU {', '.join(map(str, engine.devices))}" if engine.devices else "the first GPU"


def _size(size_bytes: int | None) -> str:
    return "vLLM decides" if size_bytes is None else f"{size_bytes / 2**20:,.0f} MiB"
