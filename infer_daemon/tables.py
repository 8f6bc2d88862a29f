"""The daemon's state as tables for a terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text

from infer_daemon.domain.money import usd
from infer_daemon.settings.schema import Settings
from infer_daemon.terminal import console

_COLOURS = {"ready": "green", "ok": "green"} | dict.fromkeys(
    ("starting", "waiting", "draining", "restarting"), "yellow"
)


def show_state(state: dict[str, Any]) -> None:
    """Engines, queues, limits, budgets and models."""
    out = console()
    out.print(
        f"infer-daemon {state['version']}, pid {state['pid']}: [bold]{state['status']}[/], "
        f"{state['requests_in_flight']} requests in flight"
    )
    for found in state["anomalies"]:
        out.print(Text(_warning(found), style="yellow"))
    tables = [_engines(state["engines"]), _windows(state["pools"])]
    if any(any(pool["classes"].values()) for pool in state["pools"].values()):
        tables.append(_lines(state["pools"]))
    if state["devices"]:
        tables.append(_devices(state["devices"]))
    if state["limits"]:
        tables.append(_limits(state["limits"]))
    if state["budgets"]:
        tables.append(_budgets(state["budgets"]))
    tables.append(_ledger(state["ledger"]))
    for table in tables:
        out.print(table)
        out.print()
    show_models(state)


_WRONG = {
    "empty": "are empty",
    "loop": "go round in circles",
    "long": "are out of all proportion to those before",
    "invalid_json": "are no JSON where that was asked for",
    "finish_mix": "end otherwise than they used to",
}


def _warning(found: dict[str, Any]) -> str:
    """What is wrong with a model's answers."""
    what = _WRONG.get(found["kind"], found["kind"])
    return f"model {found['model']}: {found['share']:.0%} of its last answers {what}"


def _engines(engines: list[dict[str, Any]]) -> Table:
    """Whether each engine works, and if not why."""
    table = _table(
        "engine", "model", "state", "for", "pid", "running", "KV used", "restarts", "note"
    )
    for engine in engines:
        stats = engine["stats"] or {}
        table.add_row(
            engine["name"],
            engine["model"],
            _coloured(engine["state"]),
            _duration(engine["for_s"]),
            str(engine["pid"] or "-"),
            str(stats.get("running", "-")),
            f"{stats['kv_usage']:.0%}" if stats else "-",
            str(engine["restarts"]),
            Text(_note(engine)),
        )
    return table


_WELL = ("ok", "client")
"""Endings of calls that say nothing against their engine."""


def _note(engine: dict[str, Any]) -> str:
    """Why it does not work, or what it does instead; of one that works, how it came to be."""
    told = [engine["reason"], engine["step"]]
    if engine["breaker"] != "closed":
        told.append(f"breaker {engine['breaker'].replace('_', ' ')}")
    failed = {ending: n for ending, n in engine["endings"].items() if ending not in _WELL}
    if failed:
        told.append("calls ended: " + ", ".join(f"{n} {ending}" for ending, n in failed.items()))
    if engine["last_end"] and not engine["reason"]:
        told.append(f"before: {engine['last_end']}")
    return "; ".join(filter(None, told))


def _windows(pools: dict[str, Any]) -> Table:
    """What each engine has been given, of what it may."""
    table = _table("pool", "waiting", "running", "window", "sequences", "KV tokens", "prefill")
    for name, pool in pools.items():
        head = [name, str(pool["waiting"]), str(pool["running"])]
        for engine, window in pool["windows"].items():
            table.add_row(*head, engine, *(_used(window, w) for w in _WINDOW))
            head = ["", "", ""]
        if not pool["windows"]:
            table.add_row(*head, "closed", "-", "-", "-")
    return table


def _devices(devices: list[dict[str, Any]]) -> Table:
    """What each device's time went into since the daemon started. Of all of its engines together,
    that is all of it."""
    lines = list(devices[0]["seconds"])
    table = _table("device", "$/hour", "engine", *lines, "$")
    wall_s: dict[str, float] = {}
    for one in devices:
        wall_s[one["device"]] = wall_s.get(one["device"], 0.0) + sum(one["seconds"].values())
    for one in devices:
        all_s = wall_s[one["device"]] or 1.0
        table.add_row(
            one["device"],
            f"{one['usd_per_hour']:g}",
            one["engine"],
            *(f"{one['seconds'][line] / all_s:.1%}" for line in lines),
            f"{sum(one['seconds'].values()) * one['usd_per_hour'] / 3600:.4f}",
        )
    return table


_WINDOW = ("seqs", "kv_tokens", "prefill_tokens")
_UNLIMITED = 1 << 59


def _used(window: dict[str, int], what: str) -> str:
    most = window[f"{what}_max"]
    return f"{window[what]}/{most}" if most < _UNLIMITED else "-"


def _lines(pools: dict[str, Any]) -> Table:
    """Who waits and runs, by which counter turns go (the smallest is next), and how long one more
    request of the same tenant would wait."""
    table = _table(
        "pool", "class", "tenant", "waiting", "running", "virtual counter", "one more waits"
    )
    for name, pool in pools.items():
        for tier, tenants in pool["classes"].items():
            for tenant, line in tenants.items():
                table.add_row(
                    name,
                    tier,
                    tenant,
                    str(line["waiting"]),
                    str(line["running"]),
                    f"{line['counter']:,.0f}",
                    f"{line['expected_wait_s']:.1f} s",
                )
    return table


_PLACES = {"in_flight": "in flight", "waiting": "waiting"}
_RATES = {
    "requests": "requests left",
    "input_tokens": "input left",
    "output_tokens": "output left",
}


def _limits(limits: dict[str, Any]) -> Table:
    """What is taken of the places, and left of the minute, of everybody who has a limit; what is
    used up is red: it is what a 429 is for."""
    table = _table("limits of", *_PLACES.values(), *_RATES.values())
    for owner, found in limits.items():
        places = (_place(found.get(what)) for what in _PLACES)
        table.add_row(owner, *places, *(_rate(found.get(what)) for what in _RATES))
    return table


def _place(found: dict[str, int] | None) -> str:
    if found is None:
        return "-"
    return _of(found["taken"], found["limit"], is_used_up=found["taken"] >= found["limit"])


def _rate(found: dict[str, int] | None) -> str:
    if found is None:
        return "-"
    return _of(found["left"], found["per_minute"], is_used_up=found["left"] < 1)


def _of(number: int, most: int, *, is_used_up: bool) -> str:
    text = f"{number:,}/{most:,}"
    return f"[red]{text}[/]" if is_used_up else text


def _ledger(ledger: dict[str, Any]) -> Table:
    """Whether what requests cost is written down, and how far that is behind."""
    table = _table("ledger", "size", "log", "rows open", "rows waiting", "behind", "note")
    table.add_row(
        _coloured(ledger["state"]),
        *(f"{ledger[what] / 1e6:,.1f} MB" for what in ("bytes", "log_bytes")),
        f"{ledger['open']:,}",
        f"{ledger['waiting']:,}",
        f"{ledger['lag_s'] * 1e3:,.0f} ms",
        Text(ledger["why"]),
    )
    return table


def _budgets(budgets: list[dict[str, Any]]) -> Table:
    """What tenants have used, and running requests may use, of each budget; what is used up is red
    if that keeps requests out, and yellow if not."""
    table = _table("budget of", "a", "kind", "used", "reserved", "limit", "starts anew")
    for found in budgets:
        is_money = found["unit"] == "nano_usd"
        used, reserved, limit = (
            usd(found[what]) if is_money else f"{found[what]:,}"
            for what in ("used", "reserved", "limit")
        )
        if found["used"] >= found["limit"]:
            used = f"[{'red' if found['kind'] == 'hard' else 'yellow'}]{used}[/]"
        head = found["tenant"], found["period"], found["kind"]
        unit = "" if is_money else " tokens"
        table.add_row(*head, used, reserved, f"{limit}{unit}", found["resets_at"])
    return table


def show_story(story: dict[str, Any]) -> None:
    """What happened to one request, and what was written down of it."""
    out = console()
    events = _table("ms", "what happened")
    for after_ms, event in story["events"]:
        events.add_row(f"{after_ms:.1f}", Text(event))
    out.print(events)
    out.print(Text(", ".join(f"{key}={value}" for key, value in story["request"].items())))


def show_reload(reloaded: dict[str, Any]) -> None:
    """Which file was read, what of it holds now, and what does not yet."""
    out = console()
    applied, waiting = sorted(reloaded["applied"]), sorted(reloaded["needs_restart"])
    out.print(Text(f"the daemon has read its own file again: {reloaded['source']}"))
    if applied:
        out.print(Text(f"applied: {', '.join(applied)}"))
    if waiting:
        out.print(Text(f"needs a restart: {', '.join(waiting)}", style="yellow"))
    if not applied and not waiting:
        out.print("nothing has changed")


def show_work(engine: dict[str, Any]) -> None:
    """What a drained engine still has to do, and who takes what is new; or that it does again."""
    out = console()
    name, others = engine["name"], ", ".join(engine["ready"])
    calls = "1 call" if engine["in_flight"] == 1 else f"{engine['in_flight']} calls"
    out.print(Text(f"{name} is {engine['state']}, with {calls} in it"))
    if others:
        out.print(Text(f"new work of {engine['model']} goes to: {others}"))
    else:
        out.print(Text(f"no engine of {engine['model']} takes new work", style="yellow"))


def show_models(state: dict[str, Any]) -> None:
    """Each public model and why it does not answer, if it does not."""
    models = _table("model", "state", "reason")
    for name, model in state["models"].items():
        models.add_row(name, _coloured(model["state"]), Text(model.get("reason", "")))
    console().print(models)


def show_keys(settings: Settings) -> None:
    """Who may ask, and by what: enough of each hash to name it."""
    keys = _table("tenant", "keys (first digits of the hash)", "users on this machine")
    for name, tenant in settings.tenants.items():
        digits = [digest.removeprefix("sha256:")[:12] for digest in tenant.key_hashes]
        keys.add_row(name, ", ".join(digits) or "-", ", ".join(map(str, tenant.uids)) or "-")
    console().print(keys)


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
