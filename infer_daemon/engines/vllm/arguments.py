"""From an `[engines.NAME]` table to the arguments of vLLM, checked by vLLM's own parser."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from infer_daemon.settings.schema import EngineSection, VllmValue


class ArgumentProblem(Exception):
    """vLLM does not accept an argument."""


class _Parser(FlexibleArgumentParser):
    """vLLM's parser, with errors raised instead of printed before an exit."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentProblem(message)


@cache
def _parser() -> _Parser:
    parser: _Parser = make_arg_parser(_Parser())
    return parser


def model_path(model: str) -> str:
    """What `model` in the configuration stands for.

    `builtin:NAME` is a model that ships with the package, `package:NAME/SUB` a folder inside an
    installed Python package; anything else is passed on to vLLM (a folder or a hub name).

    Raises:
        ArgumentProblem: there is no such folder or package.
    """
    scheme, _, name = model.partition(":")
    if scheme == "builtin":
        folder = Path(str(files("infer_daemon") / "demo" / "models" / name))
    elif scheme == "package":
        package, _, sub = name.partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ArgumentProblem(f"the Python package {package!r} is not installed")
        folder = Path(spec.origin).parent / sub
    else:
        if not model.startswith(("/", "~")):
            return model
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise ArgumentProblem(f"{folder} is not there")
    if not folder.is_dir():
        raise ArgumentProblem(f"{model} names no model: {folder} is not there")
    return str(folder)


def namespace(
    engine: EngineSection, served_names: list[str], *, loras: int, media_hosts: Sequence[str] = ()
) -> Namespace:
    """vLLM's parsed arguments for an engine.

    Args:
        served_names: public names of its base model.
        loras: how many adapters it is to hold.
        media_hosts: from which it may fetch; none if there is none.

    Raises:
        ArgumentProblem: vLLM does not accept them.
    """
    return _parser().parse_args(argv(engine, served_names, loras=loras, media_hosts=media_hosts))


def problems(engine: EngineSection, path: str, *, loras: int = 0) -> Iterator[str]:
    """Everything for which the engine would not start, as `path.key: what is wrong`; vLLM's
    arguments one by one."""
    for key, text in _breaches(engine, loras):
        yield f"{path}.{key}: {text}"
    try:
        model_path(engine.model)
    except ArgumentProblem as error:
        yield f"{path}.model: {error}"
    known = _parser()._option_string_actions
    for key, value in engine.vllm.items():
        flag = "--" + key.replace("_", "-")
        if flag not in known and "--" + key not in known:
            yield f"{path}.vllm.{key}: vLLM has no such argument"
            continue
        try:
            _parser().parse_args(list(_flag(key, value)))
        except (ArgumentProblem, ValueError, TypeError) as error:
            yield f"{path}.vllm.{key}: {_first_line(error)}"


def _breaches(engine: EngineSection, loras: int) -> Iterator[tuple[str, str]]:
    """What vLLM accepts and should not, as (key, what is wrong)."""
    if not current_platform.is_cpu():
        return
    if engine.kv_cache_memory_bytes is None:
        yield (
            "kv_cache_memory_bytes",
            "is needed on the CPU, where vLLM would take most of the machine's memory",
        )
    slots = engine.vllm.get("max_loras")
    if loras and isinstance(slots, int) and slots <= loras:
        yield (
            "vllm.max_loras",
            f"must be more than the {loras} adapters of this engine (on the CPU, vLLM applies the "
            "last slot to requests without an adapter)",
        )


def adapter_problems(lora: str, path: str) -> Iterator[str]:
    """Whether an adapter's folder is there. What is in it only an engine can judge."""
    try:
        folder = Path(model_path(lora))
    except ArgumentProblem as error:
        yield f"{path}: {error}"
        return
    if folder.is_absolute() and not (folder / "adapter_config.json").is_file():
        yield f"{path}: {folder} has no adapter_config.json"


def argv(
    engine: EngineSection, served_names: list[str], *, loras: int, media_hosts: Sequence[str] = ()
) -> list[str]:
    """The command line that `vllm serve` would get for this engine.

    Raises:
        ArgumentProblem: there is no such model, or the engine would not work on this platform.
    """
    for key, text in _breaches(engine, loras):
        raise ArgumentProblem(f"{key}: {text}")
    arguments: dict[str, VllmValue] = {
        "model": model_path(engine.model),
        "served_model_name": served_names,
        "max_num_seqs": engine.max_num_seqs,
        "use_tqdm_on_load": False,  # a bar is no line of a log
        # An empty list would allow every host (RFC 2606 keeps this name from being one).
        "allowed_media_domains": list(media_hosts) or ["none.invalid"],
        **engine.vllm,
    }
    if engine.kv_cache_memory_bytes is not None:
        arguments["kv_cache_memory_bytes"] = engine.kv_cache_memory_bytes
    if engine.devices:
        arguments["device_ids"] = ",".join(map(str, engine.devices))
    if loras:
        arguments.setdefault("enable_lora", True)
        # One slot stays empty: in a batch with adapters, vLLM's CPU kernels give tokens without one
        # the last slot (index -1), and base requests would answer in an adapter's voice.
        arguments.setdefault("max_loras", loras + 1)
    return [word for key, value in arguments.items() for word in _flag(key, value)]


def _flag(key: str, value: Any) -> Iterator[str]:
    flag = "--" + key.replace("_", "-")
    match value:
        case True:
            yield flag
        case False:
            yield "--no-" + flag.removeprefix("--")
        case list():
            yield flag
            yield from map(str, value)
        case dict():
            yield flag
            yield json.dumps(value)
        case _:
            yield f"{flag}={value}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
