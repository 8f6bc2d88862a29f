"""What the daemon puts into vLLM's own output processor, without an engine."""

from types import SimpleNamespace

import pytest
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import OutputProcessor

from infer_daemon.engines.vllm.carrying import keep_states

pytestmark = pytest.mark.vllm


def test_calls_that_take_their_states_away_when_they_are_told_leave_nobody_untold() -> None:
    processor = OutputProcessor(tokenizer=None, log_stats=False)
    keep_states(processor)
    told: list[str] = []

    def state(name: str) -> SimpleNamespace:
        def put(_: Exception) -> None:
            told.append(name)
            processor.request_states.pop(name)

        return SimpleNamespace(queue=SimpleNamespace(put=put))

    processor.request_states |= {name: state(name) for name in ("a", "b", "c")}
    processor.propagate_error(EngineDeadError())

    assert told == ["a", "b", "c"]
