"""vLLM's renderer, made to serve tenants in turn and to leave the event loop alone.

It tokenises and fills templates in one thread per engine. Here that thread takes turns between
tenants, reads long chats, which vLLM would do on the event loop, and does not hold the interpreter
for long when it tokenises long texts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from copy import deepcopy
from typing import Any

from transformers import PreTrainedTokenizerBase, TokenizersBackend
from vllm import envs
from vllm.inputs import TextPrompt, TokensPrompt
from vllm.renderers import BaseRenderer, TokenizeParams
from vllm.renderers.chat_utils import has_non_text_content
from vllm.renderers.hf import HfRenderer
from vllm.utils.async_utils import make_async

from infer_daemon.domain.record import CURRENT
from infer_daemon.engines.pacing import wait_to_begin
from infer_daemon.engines.vllm.fair_threads import FairExecutor
from infer_daemon.engines.vllm.requests import are_many

LONG_CHARS = 65_536


def take_turns(renderer: BaseRenderer, name: str) -> None:
    """Put a fair executor under everything that this renderer does. Once, before it is used.

    Everybody holds on to vLLM's swappable executor, which holds the one that does the work. vLLM
    swaps that when a template takes too long, time in the queue included; then it is enough to
    replace a thread that has really been at it for long.
    """
    swappable = renderer._executor
    fair = FairExecutor(swappable._max_workers, f"renderer-{name}")
    swappable.shutdown(wait=False)
    swappable._inner = fair
    swappable.replace_inner = lambda: fair.replace_stuck(envs.VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT / 2)
    if isinstance(renderer, HfRenderer):
        _read_long_chats_in_the_thread(renderer)
        _keep_no_texts_of_tokens(renderer)


def render_inputs_in_turn(handlers: Iterable[Any]) -> None:
    """Have these handlers give the inputs of embeddings, scores and the like to the renderer's
    thread a few at a time. Once for each handler."""
    for handler in handlers:
        found = [getattr(handler, "io_processor", None)]
        found += getattr(handler, "io_processors", {}).values()
        for processor in found:
            if processor is not None:
                processor.render_async = _in_turn(processor.render_async)


def _in_turn(render: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    under_way: dict[str, int] = {}
    """Inputs of each request that are being rendered."""

    async def render_async(params: Any) -> Any:
        record = CURRENT.get()
        request_id = "" if record is None else record.id
        number = under_way[request_id] = under_way.get(request_id, 0) + 1
        try:
            await wait_to_begin(number)
            return await render(params)
        finally:
            under_way[request_id] -= 1
            if not under_way[request_id]:
                del under_way[request_id]

    return render_async


def _read_long_chats_in_the_thread(renderer: HfRenderer) -> None:
    read_on_the_loop = renderer.render_messages_async

    def read(messages: list[Any], params: Any) -> Any:
        return renderer.render_messages(messages, params) if _is_text(messages) else None

    async def render_messages_async(messages: list[Any], params: Any) -> Any:
        if are_many(messages):  # vLLM takes 6 microseconds for each
            loop = asyncio.get_running_loop()
            rendered = await loop.run_in_executor(renderer._executor, read, messages, params)
            if rendered is not None:
                return rendered
        return await read_on_the_loop(messages, params)

    renderer.render_messages_async = render_messages_async


def _is_text(messages: list[Any]) -> bool:
    """Whether there is nothing in it that would have to be fetched."""
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return all(isinstance(content, str | list | None) for content in contents) and (
        not has_non_text_content(messages)
    )


def _keep_no_texts_of_tokens(renderer: HfRenderer) -> None:
    """Tokenise long texts without noting the text and the place of each token.

    Nobody asks for them, and to free those of a megabyte holds the interpreter for 25 ms; without
    them a text takes three fifths of the time.
    """
    tokenizer = renderer.tokenizer
    if not _is_usual(tokenizer):
        return
    # A copy, since settings of the other are changed while it works in other threads.
    core = deepcopy(tokenizer._tokenizer)
    core.no_truncation()
    core.no_padding()
    core.encode_special_tokens = tokenizer.split_special_tokens
    usual = renderer._tokenize_prompt

    def tokenize_prompt(prompt: TextPrompt, params: TokenizeParams) -> TokensPrompt:
        text = prompt["prompt"]
        is_to_cut = params.truncate_prompt_tokens is not None
        if len(text) < LONG_CHARS or is_to_cut or params.return_token_offsets:
            return usual(prompt, params)
        (found,) = core.encode_batch_fast([text], add_special_tokens=params.add_special_tokens)
        return renderer._build_tokens_prompt(found.ids, prompt)

    renderer._tokenize_prompt = tokenize_prompt
    renderer._tokenize_prompt_async = make_async(tokenize_prompt, executor=renderer._executor)


def _is_usual(tokenizer: Any) -> bool:
    """Whether a tokeniser does with a text what transformers' fast ones do, and no more. The first
    class is vLLM's, which lends copies of it to threads."""
    if not isinstance(tokenizer, TokenizersBackend):
        return False
    classes = type(tokenizer).__mro__[1:]
    owners = [
        next(kind for kind in classes if method in vars(kind))
        for method in ("__call__", "_encode_plus")
    ]
    return owners == [PreTrainedTokenizerBase, TokenizersBackend]
