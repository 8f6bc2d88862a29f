"""The daemon's state as tables for a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infer_daemon.settings.schema import Settings

_COLOURS = {"ready": "green", "starting": "yellow", "waiting": "yellow"}


def show_state(state: dict[str, Any]) -> None:
    """Engines, queues and models."""
    console = Console()
    console.print(
        f"infer-daemon {state['version']}, pid {state['pid']}: [bold]{state['status']}[/], "
        f"{state['requests_in_flight']} requests in flight"
    )
    engines = _table("engine", "model", "state", "for", "pid", "running", "KV used", "note")
    for engine in state["engines"]:
        stats = engine["stats"] or {}
        engines.add_row(
            engine["name"],
            engine["model"],
            _coloured(engine["state"]),
            _duration(engine["for_s"]),
            str(engine["pid"] or "-"),
            str(stats.get("running", "-")),
            f"{stats['kv_usage']:.0%}" if stats else "-",
            Text(engine["reason"] or engine["step"]),
        )
    console.print(engines)
    queues = _table("queue", "waiting", "running", "window")
    for name, pool in state["pools"].items():
        windows = ", ".join(
            f"{engine} {window['seqs']}/{window['seqs_max']}"
            for engine, window in pool["windows"].items()
        )
        queues.add_row(name, str(pool["waiting"]), str(pool["running"]), windows or "closed")
    console.print(queues)
    show_models(state)


def show_models(state: dict[str, Any]) -> None:
    """Each public model and why it does not answer, if it does not."""
    models = _table("model", "state", "reason")
    for name, model in state["models"].items():
        models.add_row(name, _coloured(model["state"]), Text(model.get("reason", "")))
    Console().print(models)


def show_keys(settings: Settings) -> None:
    """Who may ask, and by what: enough of each hash to name it."""
    keys = _table("tenant", "keys (first digits of the hash)", "users on this machine")
    for name, tenant in settings.tenants.items():
        digits = [digest.removeprefix("sha256:")[:12] for digest in tenant.key_hashes]
        keys.add_row(name, ", ".join(digits) or "-", ", ".join(map(str, tenant.uids)) or "-")
    Console().print(keys)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _coloured(state: str) -> str:
    return f"[{_COLOURS.get(state, 'red')}]{state}[/]"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
