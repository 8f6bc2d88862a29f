"""How long an engine's steps take, for whom: what requests are charged of its time follows from it.

A few steps of a few kinds are timed once the engine is warm: with one sequence and with many, and
with a prompt to be read beside them. What is timed is the gap between two outputs of the same
request, which is a step and nothing else: no submission, no first token.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from statistics import median

from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from infer_daemon.domain.steps import Step
from infer_daemon.engines.vllm.warmup import prompt_of

TIMEOUT_S = 0.5
"""A start takes no longer than that for it; engines that are too slow have the usual weights."""
SEQS = 32
PROMPT_TOKENS = 256
TOKENS = 16
PROMPT_EVERY = 4


async def timed_steps(llm: AsyncLLM, tasks: Iterable[str]) -> list[Step]:
    """One step of each kind, as long as they are in the middle; none of an engine that generates
    nothing."""
    if "generate" not in tasks:
        return []
    seqs = min(SEQS, llm.vllm_config.scheduler_config.max_num_seqs - 1)
    prompt_tokens = _prompt_tokens(llm, seqs)
    found: list[Step] = []
    if seqs > 1 and prompt_tokens > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                for number in (seqs, 1):
                    await _Run(llm, number, prompt_tokens, found).run()
    kinds: dict[tuple[int, int], list[int]] = defaultdict(list)
    for step in found:
        kinds[step.decode_seqs, step.prompt_tokens].append(step.duration_ns)
    return [Step(round(median(times)), *kind) for kind, times in kinds.items()]


def _prompt_tokens(llm: AsyncLLM, seqs: int) -> int:
    """As many as are read in one step."""
    config = llm.vllm_config.scheduler_config
    most = config.max_num_batched_tokens - seqs
    if config.long_prefill_token_threshold > 0:
        most = min(most, config.long_prefill_token_threshold)
    return int(min(PROMPT_TOKENS, most, llm.model_config.max_model_len - 2))


class _Run:
    """One request of so many sequences, beside which prompts are read."""

    def __init__(self, llm: AsyncLLM, seqs: int, prompt_tokens: int, found: list[Step]) -> None:
        self._llm = llm
        self._seqs = seqs
        self._prompt_tokens = prompt_tokens
        self._found = found
        self._name = f"speed-{seqs}-{time.monotonic_ns()}"
        self._prompts_read = 0

    async def run(self) -> None:
        params = SamplingParams(
            n=self._seqs,
            max_tokens=TOKENS,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        async with asyncio.TaskGroup() as readers:
            steps = last_ns = last_read = 0
            async for output in self._llm.generate(prompt_of(self._llm, 3), params, self._name):
                now_ns = time.perf_counter_ns()
                await asyncio.sleep(0)  # the outputs of a step come together: let its reader see
                read = self._prompts_read - last_read
                last_read = self._prompts_read
                # Not all are in the first steps and the last; a late look sees several at once.
                is_whole = sum(len(one.token_ids) for one in output.outputs) == self._seqs
                if is_whole and last_ns and read < 2:
                    tokens = read * self._prompt_tokens
                    self._found.append(Step(now_ns - last_ns, self._seqs, tokens))
                last_ns = now_ns if is_whole else 0
                steps += is_whole
                if is_whole and steps % PROMPT_EVERY == 1:
                    readers.create_task(self._read(steps))

    async def _read(self, number: int) -> None:
        """A prompt that is not in the prefix cache."""
        name = f"{self._name}-{number}"
        prompt = {**prompt_of(self._llm, self._prompt_tokens), "cache_salt": name}
        params = SamplingParams(max_tokens=1, detokenize=False)
        async for _ in self._llm.generate(prompt, params, name):
            self._prompts_read += 1
