"""What an engine does before it counts as ready, so that no client pays for a first time.

The first request with logprobs, the first grammar and the first use of an adapter each compile or
load something: seconds that would look like a hang to a watchdog.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM


async def warm_up(
    llm: AsyncLLM,
    tasks: Iterable[str],
    loras: Iterable[LoRARequest],
    progress: Callable[[str], None],
) -> None:
    """Run one request of each kind that is slow the first time. Errors are the engine's own."""
    if "generate" in tasks:
        grammar = StructuredOutputsParams(regex="[ab]")
        steps: list[tuple[str, SamplingParams, LoRARequest | None]] = [
            ("warming up", SamplingParams(max_tokens=2), None),
            ("warming up logprobs", SamplingParams(max_tokens=2, logprobs=2), None),
            (
                "warming up structured output",
                SamplingParams(max_tokens=2, structured_outputs=grammar),
                None,
            ),
            *(
                (f"warming up adapter {lora.lora_name}", SamplingParams(max_tokens=2), lora)
                for lora in loras
            ),
        ]
        for step, params, lora in steps:
            progress(step)
            await _generate(llm, params, lora)
        return
    for task in ("embed", "classify", "token_embed", "token_classify"):
        if task in tasks:
            progress(f"warming up {task}")
            await _encode(llm, PoolingParams(task=task))


async def _generate(llm: AsyncLLM, params: SamplingParams, lora: LoRARequest | None) -> None:
    async for _ in llm.generate(prompt_of(llm, 3), params, _id(), lora_request=lora):
        pass


async def _encode(llm: AsyncLLM, params: PoolingParams) -> None:
    async for _ in llm.encode(prompt_of(llm, 3), params, _id()):
        pass


def prompt_of(llm: AsyncLLM, tokens: int) -> Any:
    """Tokens that every vocabulary has, as the renderer hands them on."""
    ids = [1 + number % 3 for number in range(tokens)]
    prompt = TokensPrompt(prompt_token_ids=ids)
    (rendered,) = llm.renderer.render_cmpl([prompt], llm.renderer.default_cmpl_tok_params)
    return rendered


def _id() -> str:
    return f"warmup-{asyncio.get_running_loop().time()}"
