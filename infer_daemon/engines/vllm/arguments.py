"""From an `[engines.NAME]` table to the arguments of vLLM, checked by vLLM's own parser."""

import json
from argparse import Namespace
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from vllm.entrypoints.launchers.cli_args import make_arg_parser
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
        ArgumentProblem: there is no such built-in model or package.
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
        return str(Path(model).expanduser()) if model.startswith("~") else model
    if not folder.is_dir():
        raise ArgumentProblem(f"{model} names no model: {folder} is not there")
    return str(folder)


def namespace(engine: EngineSection, served_names: list[str], *, has_loras: bool) -> Namespace:
    """vLLM's parsed arguments for an engine. `served_names`: public names of its base model.

    Raises:
        ArgumentProblem: vLLM does not accept them.
    """
    return _parser().parse_args(argv(engine, served_names, has_loras=has_loras))


def problems(engine: EngineSection, path: str) -> Iterator[str]:
    """Every argument that vLLM would refuse, one by one, as `path.key: what is wrong`."""
    try:
        folder = model_path(engine.model)
        if folder.startswith("/") and not Path(folder).is_dir():
            yield f"{path}.model: {folder} is not there"
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


def adapter_problems(lora: str, path: str) -> Iterator[str]:
    """Whether an adapter's folder is there. What is in it only an engine can judge."""
    try:
        folder = Path(model_path(lora))
    except ArgumentProblem as error:
        yield f"{path}: {error}"
        return
    if folder.is_absolute() and not (folder / "adapter_config.json").is_file():
        yield f"{path}: {folder} has no adapter_config.json"


def argv(engine: EngineSection, served_names: list[str], *, has_loras: bool) -> list[str]:
    """The command line that `vllm serve` would get for this engine."""
    arguments: dict[str, VllmValue] = {
        "model": model_path(engine.model),
        "served_model_name": served_names,
        "max_num_seqs": engine.max_num_seqs,
        **engine.vllm,
    }
    if engine.kv_cache_memory_bytes is not None:
        arguments["kv_cache_memory_bytes"] = engine.kv_cache_memory_bytes
    if engine.devices:
        arguments["device_ids"] = ",".join(map(str, engine.devices))
    if has_loras:
        arguments.setdefault("enable_lora", True)
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
