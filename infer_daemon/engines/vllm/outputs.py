"""What vLLM tells of a request, in the words of whoever waits for it."""

from typing import Any

from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError

from infer_daemon.domain.errors import EngineDied, EngineFault
from infer_daemon.engines.contract import Sink
from infer_daemon.engines.vllm.carrying import VllmProgress


def hand_on(
    sink: Sink,
    output: RequestOutput | PoolingRequestOutput[Any] | Exception,
    progress: VllmProgress | None,
) -> None:
    """What vLLM calls, on the event loop, for every output of a request."""
    if isinstance(output, Exception):
        is_death = isinstance(output, EngineDeadError)
        sink.fail(EngineDied(retry_after_s=10) if is_death else output)
        return
    new_tokens = 0
    if isinstance(output, RequestOutput):
        for completion in output.outputs:
            if completion.finish_reason == "error":
                sink.fail(EngineFault())  # of its handler, it would be one error among others
                return
            new_tokens += len(completion.token_ids)
            if progress is not None and completion.finish_reason is not None:
                # Of several sequences that go on each is a request of its own.
                progress.finished[completion.index] = completion.finish_reason
                output.finished = progress.is_finished
    sink.deliver(
        output,
        new_tokens=new_tokens,
        cached_tokens=output.num_cached_tokens or 0,
        finished=output.finished,
    )
