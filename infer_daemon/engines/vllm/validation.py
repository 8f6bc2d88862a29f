"""Whether a grammar can be used, found out beside the event loop and not for ever.

vLLM asks that in `AsyncLLM.add_request`, on the event loop: while C++ and Rust code reads a schema,
nobody is served. Here the same check runs before, in one of a few threads, with a deadline; vLLM's
own then passes over what was checked.

A thread that is in such code cannot be ended, so one whose deadline has passed stays lost until it
comes back by itself. When all are lost, grammars are refused and everything else goes on.
"""

import asyncio
from copy import copy
from typing import Any
from weakref import WeakValueDictionary

from vllm.config import VllmConfig
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from infer_daemon.domain.errors import FrontendError, GrammarBusy
from infer_daemon.engines.vllm import errors
from infer_daemon.engines.vllm.fair_threads import FairExecutor

THREADS = 2
DEADLINE_S = 2.0
STACK_BYTES = 256 * 1024 * 1024
"""A schema of 32 KiB that is one chain of references overflows the usual 8 MiB, which would end the
process; of 64 KiB, 64 MiB were enough."""
RETRY_AFTER_S = 10.0

_CHECKED: WeakValueDictionary[int, StructuredOutputsParams] = WeakValueDictionary()
"""By id, grammars that were checked: a call keeps its own, from one engine to the next, and hands
it to vLLM in whichever task comes to read it."""


class GrammarCheck:
    """Checks the grammars of one engine's requests."""

    def __init__(self, name: str) -> None:
        self._threads = FairExecutor(THREADS, f"grammars-{name}", STACK_BYTES)
        _pass_over_what_was_checked()

    async def check(
        self, params: SamplingParams | PoolingParams, config: VllmConfig, tokenizer: Any
    ) -> None:
        """Check the grammar of a request, if it has one, before it goes to vLLM.

        Raises:
            FrontendError: it cannot be used, or it takes too long to find out.
            EngineFault: the check itself has failed.
            GrammarBusy: no thread was free in time.
        """
        if not isinstance(params, SamplingParams) or params.structured_outputs is None:
            return
        if self._threads.busy_for(DEADLINE_S) >= THREADS:
            raise GrammarBusy(retry_after_s=RETRY_AFTER_S)
        kind = _kind(params.structured_outputs)
        # The check changes what it checks, and several calls of a request may share it.
        params.structured_outputs = copy(params.structured_outputs)
        work = self._threads.submit(
            params._validate_structured_outputs,
            config.model_config,
            config.structured_outputs_config,
            tokenizer,
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wrap_future(work)
        except TimeoutError:
            if work.cancelled():  # before a thread began with it
                raise GrammarBusy(retry_after_s=RETRY_AFTER_S) from None
            raise FrontendError(
                f"the grammar takes longer than {DEADLINE_S:.0f} seconds to check; simplify it",
                status=400,
                code="grammar_too_complex",
            ) from None
        except Exception as error:
            raise errors.from_grammar(error, kind) from error
        _CHECKED[id(params.structured_outputs)] = params.structured_outputs

    def close(self) -> None:
        """No more checks. Threads that are lost end when they come back."""
        self._threads.shutdown()


def _kind(grammar: StructuredOutputsParams) -> str:
    """Which of its fields is set; vLLM refuses none and more than one."""
    return next((kind for kind in errors.GRAMMARS if getattr(grammar, kind) is not None), "grammar")


def _pass_over_what_was_checked() -> None:
    """Make vLLM's own check, which comes while it adds a request, skip what was checked before.
    Idempotent; requests that nobody checked are checked as ever."""
    original = SamplingParams._validate_structured_outputs
    if getattr(original, "passes_over", False):
        return

    def validate(self: SamplingParams, *arguments: Any) -> None:
        grammar = self.structured_outputs
        if grammar is None or _CHECKED.get(id(grammar)) is not grammar:
            original(self, *arguments)

    validate.passes_over = True  # type: ignore[attr-defined]
    SamplingParams._validate_structured_outputs = validate
