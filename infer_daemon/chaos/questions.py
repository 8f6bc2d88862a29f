"""What clients ask, as it goes over the wire, and what they are told. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KEYS = {"acme": "sk-demo-acme", "globex": "sk-demo-globex", "nightly": "sk-demo-nightly"}
"""Of the tenants that ask: two interactive ones, and one whose work is batch."""
BATCH_TENANT = "nightly"
TEXTS = (
    "What is infer-daemon?",
    "What does a 429 mean?",
    "How do I add a model?",
    "What does a 503 mean?",
    "Who goes next?",
    "How do budgets work?",
    "What does the ledger do?",
    "Can batch requests starve?",
    "How is fairness ensured?",
    "What happens when a deadline passes?",
    "How does routing work?",
    "Are keys stored in plain text?",
)
LONG_TOKENS, SHORT_TOKENS = 100, 40
_DONE = b"[DONE]"


class BadAnswer(Exception):
    """What came is no answer; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request that anybody may send, any number of times. Greedy: it has one right answer."""

    model: str
    text: str
    is_chat: bool
    is_stream: bool
    tokens: int
    is_endless: bool = False
    """Whether the answer goes on until it has all these tokens."""

    @property
    def path(self) -> str:
        """Where it is asked."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    @property
    def body(self) -> bytes:
        """As JSON."""
        fields: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.tokens,
            "temperature": 0,
            "ignore_eos": self.is_endless,
            "stream": self.is_stream,
        }
        if self.is_chat:
            fields["messages"] = [{"role": "user", "content": self.text}]
        else:
            fields["prompt"] = self.text
        if self.is_stream:
            fields["stream_options"] = {"include_usage": True}
        return json.dumps(fields).encode()

    def request(self, key: str, *, deadline_s: float = 0.0) -> bytes:
        """Whole and ready to be sent.

        Args: deadline_s: 0 leaves it to the daemon.
        """
        body = self.body
        lines = [
            f"POST {self.path} HTTP/1.1",
            "Host: chaos",
            f"Authorization: Bearer {key}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        if deadline_s:
            lines.append(f"x-deadline-ms: {round(deadline_s * 1e3)}")
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class Said:
    """What must be the same, however often and by whomever it is asked."""

    text: str
    ending: str
    tokens: int


def questions(models: list[str]) -> list[Question]:
    """A mix of all that matters here: streams and whole answers, chats and completions, short and
    long, every model."""
    return [
        Question(
            model=models[number % len(models)],
            text=text,
            is_chat=number % 2 == 0,
            is_stream=(number + turn) % 2 == 0,
            tokens=LONG_TOKENS if number % 4 == 3 else SHORT_TOKENS,
            is_endless=number % 4 == 3,
        )
        for turn in range(2)
        for number, text in enumerate(TEXTS)
    ]


def said(body: bytes, *, is_stream: bool) -> Said:
    """What an answer says.

    Raises:
        BadAnswer: it does not end as it should, or is an error.
    """
    events = list(_events(body)) if is_stream else [body]
    if is_stream and (not events or events.pop() != _DONE):
        raise BadAnswer(f"no [DONE] at the end: {body[-300:]!r}")
    texts, ending, tokens = [], "", -1
    for event in events:
        told = json.loads(event)
        if "error" in told:
            raise BadAnswer(f"an error in its midst: {told['error']}")
        for choice in told["choices"]:
            texts.append(_text(choice))
            ending = choice.get("finish_reason") or ending
        usage = told.get("usage") or {}
        tokens = usage.get("completion_tokens", tokens)
    return Said("".join(texts), ending, tokens)


def _text(choice: dict[str, Any]) -> str:
    part = choice.get("delta") or choice.get("message") or choice
    return part.get("content") or part.get("text") or ""


def _events(body: bytes) -> Iterator[bytes]:
    for line in body.splitlines():
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ")
