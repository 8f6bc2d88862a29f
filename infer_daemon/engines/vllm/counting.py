"""How many tokens a prompt has, rendered as vLLM's handlers would, without running it."""

from copy import copy
from dataclasses import replace
from typing import Any

from starlette.datastructures import State
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.renderers import TokenizeParams
from vllm.renderers.inputs.preprocess import extract_prompt_len

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import NotSupported
from infer_daemon.engines.vllm import errors


class TokenCounter:
    """Renders like the handlers of one engine, but prompts of any length.

    vLLM's handler for `/tokenize` would do for most, but its requests lack what can change a
    prompt: documents, the reasoning effort, a tool choice of `none`, a suffix.
    """

    def __init__(self, state: State) -> None:
        """Args: state: as filled by vLLM's `init_app_state`."""
        self._model_config = state.online_renderer.model_config
        self._renderer = copy(state.online_renderer)
        self._renderer.renderer = _Unlimited(state.online_renderer.renderer)
        self._messages = copy(getattr(state, "anthropic_serving_messages", None))
        if self._messages is not None:
            self._messages.online_renderer = self._renderer

    async def count(self, endpoint: Endpoint, request: Any) -> int:
        """Tokens of the prompt; of the longest, if there are several.

        Args:
            request: vLLM's request for this endpoint. Rendering changes it: do not use it again.

        Raises:
            NotSupported: requests of this kind are not counted here.
            DaemonError, or what vLLM raises: as when the request is answered.
        """
        match endpoint:
            case Endpoint.CHAT:
                rendered = _checked(await self._renderer.render_chat(request))
                return self._longest(rendered[1])
            case Endpoint.COMPLETIONS:
                return self._longest(_checked(await self._renderer.render_completion(request)))
            case Endpoint.RESPONSES:
                rendered = _checked(await self._renderer.render_responses(request))
                return self._longest([rendered.engine_input])
            case Endpoint.MESSAGES if self._messages is not None:
                answer = _checked(await self._messages.count_tokens(request))
                return int(answer.input_tokens)
            case _:
                raise NotSupported(f"tokens of {endpoint.value} requests are not counted")

    def _longest(self, inputs: list[Any]) -> int:
        return max(extract_prompt_len(self._model_config, one) for one in inputs)


class _Unlimited:
    """vLLM's renderer without the limit on a prompt's length. Media that are only counted stay out
    of the cache of which the engine has a copy."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    async def render_chat_async(
        self, conversations: Any, chat_params: Any, tok_params: TokenizeParams, **options: Any
    ) -> Any:
        options["skip_mm_cache"] = True
        return await self._renderer.render_chat_async(
            conversations, chat_params, _unlimited(tok_params), **options
        )

    async def render_cmpl_async(
        self, prompts: Any, tok_params: TokenizeParams, **options: Any
    ) -> Any:
        options["skip_mm_cache"] = True
        return await self._renderer.render_cmpl_async(prompts, _unlimited(tok_params), **options)


def _unlimited(params: TokenizeParams) -> TokenizeParams:
    if params.truncate_prompt_tokens is not None:
        return params  # the request is as long as it says
    return replace(params, max_total_tokens=None, max_output_tokens=0, needs_detokenization=False)


def _checked(result: Any) -> Any:
    if isinstance(result, ErrorResponse):
        raise errors.from_response(result)
    return result
