"""The command line: `infer-daemon serve | check | state | models | story | reload | drain |
undrain | keys | ledger | bench`.

Kept light: the engines' processes import the program's main module again.
"""

import argparse
import asyncio
import errno
import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from infer_daemon import __version__

if TYPE_CHECKING:
    from infer_daemon.settings.state_folder import StateFolder

if "--multiprocessing-fork" in sys.orig_argv:
    from infer_daemon.engines.vllm import plugin

    # Not only in the plugin: vLLM loads it after its handshake with the daemon, for which an engine
    # whose daemon is gone would wait for ever.
    plugin.die_with_the_parent()
    plugin.log_as_the_daemon_does()
    # This is an engine's process, about to import vLLM: a tenth faster without the collector, which
    # finds nothing in modules. `engines.vllm.plugin` switches it on again.
    gc.disable()

OK, FAILED, BAD_INPUT = 0, 1, 2
SWITCH_INTERVAL_S = 0.0005
"""Threads that render get the interpreter from a busy event loop so soon: Python's 5 ms are a good
part of a request's wait."""


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 bad input."""
    arguments = _parser().parse_args(argv)
    from infer_daemon.settings.load import SettingsError
    from infer_daemon.settings.state_folder import StateFolderError

    try:
        code: int = arguments.run(arguments)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except StateFolderError as error:
        print(error, file=sys.stderr)
        return FAILED  # another daemon may end: a service manager is to try again
    except BrokenPipeError:
        return OK
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"cannot write: {error.strerror}", file=sys.stderr)
        return FAILED
    return code


def run() -> None:
    """The program: `main`, and its end."""
    code = main()
    if "vllm" in sys.modules:
        # The engines are down and the state folder is free. A thread of the vendor that hangs must
        # not keep the process, as the interpreter's own end would let it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


_DRAINS = {
    "drain": "give an engine no more work, and let it end what it has",
    "undrain": "give a drained engine work again",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="infer-daemon",
        description="One process, several vLLM engines, one OpenAI-shaped door.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the daemon")
    serve.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the configuration, TOML"
    )
    serve.add_argument("--host", help="address to listen on, instead of listen.host")
    serve.add_argument("--port", type=_port, help="TCP port, instead of listen.port; 0 finds one")
    serve.add_argument("--state-dir", metavar="DIR", help="instead of daemon.state_dir")
    serve.add_argument(
        "--examples", action="store_true", help="print calls to paste when the engines are ready"
    )
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="validate a configuration and show what it means")
    check.add_argument("config", type=Path, metavar="CONFIG", help="the configuration, TOML")
    check.set_defaults(run=_check)

    models = commands.add_parser("models", help="the models of the running daemon")
    _add_running(models)
    models.set_defaults(run=_models)

    state = commands.add_parser(
        "state", help="engines, queues, limits and models of the running daemon"
    )
    _add_running(state)
    state.set_defaults(run=_state)

    story = commands.add_parser("story", help="what happened to one of the last requests")
    story.add_argument("id", metavar="ID", help="x-request-id, or the id in the response")
    _add_running(story)
    story.set_defaults(run=_story)

    reload = commands.add_parser(
        "reload",
        help="have the daemon read its own file again: tenants, limits, scheduling",
        description="The daemon reads the file again that it was started with, and applies what "
        "may change while it runs. The options only find the daemon.",
    )
    _add_running(reload)
    reload.set_defaults(run=_reload)

    for name, text in _DRAINS.items():
        drain = commands.add_parser(name, help=text)
        drain.add_argument("engine", metavar="ENGINE", help="its name in the configuration")
        _add_running(drain)
        drain.set_defaults(run=_drain, action=name)

    keys = commands.add_parser("keys", help="make, list and revoke keys in a configuration")
    keys.set_defaults(run=_keys)
    actions = keys.add_subparsers(required=True, metavar="ACTION", dest="action")
    new = actions.add_parser("new", help="print a new key, once, and the line for its tenant")
    new.add_argument("tenant", type=_tenant, metavar="NAME")
    listing = actions.add_parser("list", help="tenants and the beginnings of their keys' hashes")
    revoke = actions.add_parser("revoke", help="take a key out of the file")
    revoke.add_argument("key", metavar="HASH", help="the first 8 digits of the hash, or more")
    for action in (listing, revoke):
        action.add_argument("--config", type=Path, required=True, metavar="FILE")

    _add_ledger(commands)
    _add_bench(commands)

    version = commands.add_parser("version", help="the daemon's version")
    version.set_defaults(run=lambda _: print(__version__) or OK)
    return parser


def _add_ledger(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from infer_daemon.reporting import cli

    cli.add_to(commands, _folder)


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from infer_daemon.bench import cli

    cli.add_to(commands)


def _port(text: str) -> int:
    """A TCP port; uvloop would take 70000 for 4464."""
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _tenant(text: str) -> str:
    """A name that a configuration takes for a tenant."""
    import msgspec

    from infer_daemon.settings.schema import Name

    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name: letters, digits and any of ._:/- after the first, at most 100"
        ) from None


def _add_running(parser: argparse.ArgumentParser) -> None:
    """How to find the running daemon."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="its state folder, if not the default one"
    )
    where.add_argument(
        "--config", type=Path, metavar="FILE", help="its configuration, which names that folder"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _serve(arguments: argparse.Namespace) -> int:
    import uvloop

    from infer_daemon import plan
    from infer_daemon.api.listeners import AddressInUse
    from infer_daemon.daemon import Daemon
    from infer_daemon.ledger import logs
    from infer_daemon.ledger.problems import LedgerProblem
    from infer_daemon.live import Source
    from infer_daemon.settings import load, schema
    from infer_daemon.settings.state_folder import StateFolder

    def read() -> schema.Settings:
        return load.load(arguments.config, also=plan.missing)

    source = Source(str(arguments.config.absolute()), read(), read)
    settings = schema.replace_listen(source.settings, host=arguments.host, port=arguments.port)
    if arguments.state_dir:
        settings = schema.replace_state_dir(settings, arguments.state_dir)
    logs.configure(logs.choose_format(settings.daemon.log_format), settings.daemon.log_level)
    folder = StateFolder.of(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # Each connection is a descriptor; the usual soft limit of 1024 is for programs with select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> None:
        await Daemon(settings, folder, source).run(show_examples=arguments.examples)

    with folder.locked():
        try:
            uvloop.run(run())
        except (AddressInUse, LedgerProblem) as error:
            print(error, file=sys.stderr)
            return FAILED
    return OK


def _check(arguments: argparse.Namespace) -> int:
    from infer_daemon import plan
    from infer_daemon.settings import load

    plan.show(load.load(arguments.config, also=plan.problems))
    return OK


def _keys(arguments: argparse.Namespace) -> int:
    from infer_daemon.settings import load
    from infer_daemon.tenancy import keys
    from infer_daemon.tenancy.registry import key_hash

    if arguments.action == "new":
        key = keys.new()
        print(f"key of {arguments.tenant}, shown only now: {key}")
        print(f"for [tenants.{arguments.tenant}], added to what is there:")
        print(f'key_hashes = ["{key_hash(key)}"]')
        return OK
    settings = load.load(arguments.config, keys.Unset(os.environ))
    if arguments.action == "list":
        from infer_daemon import tables

        tables.show_keys(settings)
        return OK
    try:
        tenant = keys.revoke(arguments.config, settings, arguments.key)
    except (keys.KeyProblem, OSError) as error:
        print(error, file=sys.stderr)
        return FAILED
    print(
        f"a key of {tenant} is out of {arguments.config}; "
        "`infer-daemon reload` tells a daemon that runs with it"
    )
    return OK


def _state(arguments: argparse.Namespace) -> int:
    from infer_daemon import tables

    return _ask(arguments, "/state", tables.show_state)


def _models(arguments: argparse.Namespace) -> int:
    from infer_daemon import tables

    return _ask(arguments, "/state", tables.show_models, part="models")


def _story(arguments: argparse.Namespace) -> int:
    from infer_daemon import tables

    return _ask(arguments, f"/story/{quote(arguments.id, safe='')}", tables.show_story)


def _reload(arguments: argparse.Namespace) -> int:
    from infer_daemon import tables

    return _ask(arguments, "/reload", tables.show_reload, method="POST")


def _drain(arguments: argparse.Namespace) -> int:
    from infer_daemon import tables

    path = f"/{arguments.action}/{quote(arguments.engine, safe='')}"
    return _ask(arguments, path, tables.show_work, method="POST")


def _folder(arguments: argparse.Namespace) -> "StateFolder":
    """The state folder that the options of a running daemon name."""
    from infer_daemon.settings import load
    from infer_daemon.settings.schema import DaemonSection
    from infer_daemon.settings.state_folder import StateFolder

    if arguments.config:
        return StateFolder.of(load.load(arguments.config))
    chosen = arguments.state_dir or Path(DaemonSection().state_dir)
    return StateFolder(chosen.expanduser().absolute())


def _ask(
    arguments: argparse.Namespace,
    path: str,
    show: Callable[[dict[str, Any]], None],
    *,
    method: str = "GET",
    part: str | None = None,
) -> int:
    """Ask the running daemon and show what it answers, or a part of it as JSON."""
    from infer_daemon.api.admin import Refused, ask

    folder = _folder(arguments)
    try:
        answer = asyncio.run(ask(folder.admin_socket, path, method=method))
    except Refused as error:
        print(error, file=sys.stderr)
        return FAILED
    except OSError as error:
        reason = error.strerror or str(error)
        print(
            f"no daemon answers at {folder.admin_socket}: {reason} (--state-dir, if it was started "
            "with another)",
            file=sys.stderr,
        )
        return FAILED
    if arguments.json:
        print(json.dumps(answer[part] if part else answer, indent=2))
    else:
        show(answer)
    return OK
