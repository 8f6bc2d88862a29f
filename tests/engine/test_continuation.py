"""Answers that lose their engine again and again, or give their places up, are those of an
undisturbed run, byte for byte.

Both are made inside the gate, so that they come at a chosen token and cost no restart; that real
deaths are noticed is seen in `test_killed_engine.py`. Greedy, so that there is one right answer.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from harness import Running

from infer_daemon.domain.errors import EngineDied
from infer_daemon.domain.jobs import Tier
from infer_daemon.domain.record import RequestRecord

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

QUESTIONS = [
    "What is infer-daemon?",
    "What does a 429 mean?",
    "How do I add a model?",
    "What is a pool?",
    "Who goes next?",
]
TOP = {"temperature": 1.0, "top_k": 1}
"""As good as greedy, where vLLM does not take that."""
CUTS = [(1,), (2,), (5,), (13,), (30,), (1, 2, 3), (4, 9, 25)]


def lose(running: Running) -> None:
    """Every call loses its engine now."""
    for pool in running.daemon.pools.values():
        for call in list(pool.gate._calls):
            if call._mailbox is not None and call._mailbox.slot is not None:
                call._mailbox.slot.fail(EngineDied())


def preempt(running: Running) -> None:
    """Every call gives its place up now."""
    for pool in running.daemon.pools.values():
        for call in list(pool.gate._calls):
            call.give_way(Tier.CRITICAL)


Cut = Callable[[Running], None]


@pytest.fixture
def records(vllm_daemon: Running, monkeypatch: pytest.MonkeyPatch) -> list[RequestRecord]:
    """Those of the requests that have ended."""
    seen: list[RequestRecord] = []
    recorder = vllm_daemon.daemon.recorder
    settle = recorder.settle

    def remember(record: RequestRecord, *args: Any) -> None:
        seen.append(record)
        settle(record, *args)

    monkeypatch.setattr(recorder, "settle", remember)
    return seen


class Answer:
    """What a client has read of a stream."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.endings: dict[int, tuple[Any, Any]] = {}
        self.logprobs: dict[int, list[Any]] = {}
        self.usage: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> bool:
        """Returns whether it had content."""
        self.error = event.get("error", self.error)
        self.usage = event.get("usage") or self.usage
        has_content = False
        for choice in event.get("choices", ()):
            index = choice["index"]
            text = choice["text"] if "text" in choice else choice["delta"].get("content")
            self.texts[index] = self.texts.get(index, "") + (text or "")
            has_content = has_content or bool(text)
            self.logprobs.setdefault(index, []).extend(_logprobs(choice))
            if choice.get("finish_reason"):
                self.endings[index] = (choice["finish_reason"], choice.get("stop_reason"))
        return has_content

    @property
    def told(self) -> tuple[Any, ...]:
        """All that must be the same."""
        return (self.texts, self.endings, self.usage, self.error)


def _logprobs(choice: dict[str, Any]) -> list[Any]:
    found = choice.get("logprobs") or {}
    return found.get("content") or found.get("tokens") or []


async def read(
    running: Running,
    cuts: Sequence[int] = (),
    path: str = "/v1/chat/completions",
    cut: Cut = lose,
    **body: Any,
) -> Answer:
    """A stream; it is cut when so many of its events had content."""
    answer, contents = Answer(), 0
    body = {
        "model": "demo",
        "temperature": 0,
        "max_tokens": 48,
        "stream": True,
        "stream_options": {"include_usage": True},
        **body,
    }
    async with running.http() as http, http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                contents += answer.take(json.loads(line[6:]))
                if contents in cuts:
                    cuts = [one for one in cuts if one != contents]
                    cut(running)
    return answer


def ask(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


async def same(
    running: Running, cuts_of: Sequence[Sequence[int]] = CUTS, cut: Cut = lose, **body: Any
) -> list[Answer]:
    """Assert that no cut makes a difference; the answers with cuts."""
    whole = await read(running, **body)
    assert whole.error is None
    answers = []
    for cuts in cuts_of:
        answer = await read(running, cuts, cut=cut, **body)
        assert answer.told == whole.told, cuts
        assert _rounded(answer.logprobs) == _rounded(whole.logprobs), cuts
        answers.append(answer)
    return answers


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("question", QUESTIONS)
async def test_greedy_answers(
    vllm_daemon: Running, records: list[RequestRecord], question: str
) -> None:
    await same(vllm_daemon, **ask(question), ignore_eos=True)

    lost = [record for record in records if record.waste_continuation_tokens]
    assert len(lost) == len(CUTS)
    for record in lost:
        assert record.completion_tokens == 48
        assert record.prompt_tokens == records[0].prompt_tokens


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"model": "demo"}, id="plain"),
        pytest.param({"model": "demo-pirate"}, id="an adapter"),
        pytest.param({"frequency_penalty": 0.7, "logprobs": True}, id="penalty, logprobs"),
    ],
)
async def test_streams_that_give_their_places_up(
    vllm_daemon: Running, records: list[RequestRecord], fields: dict[str, Any]
) -> None:
    await same(vllm_daemon, cut=preempt, **ask(QUESTIONS[0]), **fields, ignore_eos=True)

    whole, *others = records
    assert [one.waste_preemption_tokens > 0 for one in others] == [True] * len(CUTS)
    for one in others:
        assert (one.completion_tokens, one.prompt_tokens) == (48, whole.prompt_tokens)
        assert one.waste_continuation_tokens == 0
    assert vllm_daemon.engine("demo")["in_flight"] == 0


async def test_a_whole_answer_that_gives_its_place_up_goes_on(
    vllm_daemon: Running, records: list[RequestRecord], once: Callable[..., Any]
) -> None:
    body = {"model": "demo", "temperature": 0, "max_tokens": 60, "ignore_eos": True}
    body |= {"logprobs": True, **ask(QUESTIONS[0])}
    async with vllm_daemon.http() as http:
        whole = (await http.post("/v1/chat/completions", json=body)).json()
        once(10, lambda: preempt(vllm_daemon))
        cut = (await http.post("/v1/chat/completions", json=body)).json()

    assert _rounded(cut["choices"]) == _rounded(whole["choices"])
    assert cut["usage"] == whole["usage"]
    assert 0 < records[1].waste_preemption_tokens <= records[1].prompt_tokens + 11
    assert records[1].completion_tokens == 60


async def test_answers_that_end_by_themselves(vllm_daemon: Running) -> None:
    await same(vllm_daemon, **ask(QUESTIONS[0]), max_tokens=400)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"repetition_penalty": 1.3}, id="repetition penalty"),
        pytest.param({"frequency_penalty": 0.7}, id="frequency penalty"),
        pytest.param({"presence_penalty": 1.5}, id="presence penalty"),
        pytest.param(
            {"presence_penalty": 0.9, "frequency_penalty": 0.4, "repetition_penalty": 1.2},
            id="all penalties",
        ),
        pytest.param({"bad_words": ["infer-daemon", "one queue"]}, id="bad words"),
        pytest.param({"stop": ["infer", "daemon", " one "]}, id="stop strings"),
        pytest.param({"stop": ["e en"], "include_stop_str_in_output": True}, id="stop told"),
        pytest.param({"min_tokens": 40, "max_tokens": 60}, id="min_tokens"),
        pytest.param({"logprobs": True, "top_logprobs": 2}, id="logprobs"),
        pytest.param({"model": "demo-pirate"}, id="an adapter"),
        pytest.param({"model": "demo-brief", "n": 2, **TOP}, id="an adapter, n"),
        pytest.param({"n": 3, **TOP}, id="n"),
        pytest.param({"logit_bias": {"40": -2.0, "300": 1.5}}, id="bias"),
    ],
)
async def test_whatever_a_request_asks_for(vllm_daemon: Running, fields: dict[str, Any]) -> None:
    await same(
        vllm_daemon, **{**ask(QUESTIONS[1]), "ignore_eos": "min_tokens" not in fields, **fields}
    )


async def test_completions_with_echo_and_several_prompts(vllm_daemon: Running) -> None:
    path = "/v1/completions"
    await same(vllm_daemon, path=path, prompt="one two three", echo=True)
    await same(vllm_daemon, path=path, prompt=["one two three", "four"], max_tokens=20)
    await same(vllm_daemon, path=path, prompt="What is", logprobs=2)


async def test_characters_of_several_tokens_straddle_the_cut(vllm_daemon: Running) -> None:
    """Made likely by a bias towards the tokens of single bytes."""
    async with vllm_daemon.http() as http:
        body = {"model": "demo", "prompt": "日本語€ünïcödé🙂"}
        ids = (await http.post("/tokenize", json=body)).json()["tokens"]
    bias = {str(token): 15.0 for token in set(ids)}
    fields = {"frequency_penalty": 1.5, "logit_bias": bias, "ignore_eos": True}
    answers = await same(
        vllm_daemon, [(cut,) for cut in range(1, 12)], **ask(QUESTIONS[2]), **fields
    )
    assert any(ord(character) > 127 for character in answers[0].texts[0]), answers[0].texts


async def test_a_whole_answer_begins_again(
    vllm_daemon: Running, records: list[RequestRecord], once: Callable[..., Any]
) -> None:
    body = {"model": "demo", "temperature": 0, "max_tokens": 60, "ignore_eos": True}
    body |= ask(QUESTIONS[0])
    async with vllm_daemon.http() as http:
        whole = (await http.post("/v1/chat/completions", json=body)).json()
        once(10, lambda: lose(vllm_daemon))
        again = (await http.post("/v1/chat/completions", json=body)).json()

    assert again["choices"] == whole["choices"]
    assert again["usage"] == whole["usage"]
    assert records[1].waste_continuation_tokens >= 10 + records[1].prompt_tokens
    assert records[1].completion_tokens == 60


@pytest.fixture
def once(vllm_daemon: Running, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """once(tokens, do): do it when the next request has so many tokens."""
    metrics = vllm_daemon.daemon.metrics
    on_tokens = metrics.on_tokens

    def arm(count: int, do: Callable[[], None]) -> None:
        left = [count]

        def counted(record: RequestRecord, **fields: Any) -> None:
            on_tokens(record, **fields)
            left[0] -= 1
            if left[0] == 0:
                do()

        for pool in vllm_daemon.daemon.pools.values():
            monkeypatch.setattr(
                pool.gate, "_meter", type("M", (), {"on_tokens": staticmethod(counted)})
            )

    return arm


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "person", "schema": PERSON},
                }
            },
            id="a JSON schema",
        ),
        pytest.param({"structured_outputs": {"regex": "[a-z]{20}-[0-9]{20}!"}}, id="a regex"),
        pytest.param(
            {"structured_outputs": {"choice": ["the first of them all", "the second of them"]}},
            id="a choice",
        ),
    ],
)
async def test_a_grammar_goes_on_where_it_was(vllm_daemon: Running, fields: dict[str, Any]) -> None:
    cuts = [(1,), (2,), (3,), (1, 2, 3)]
    await same(vllm_daemon, cuts, **ask(QUESTIONS[0]), max_tokens=200, **fields)
