"""One streamed answer as it arrives, read without parsing JSON: the reader shares its cores with
what it measures."""

import re
import time
from dataclasses import dataclass

_TEXT = re.compile(rb'"content":"[^"]')
_COMPLETION = re.compile(rb'"completion_tokens":(\d+)')
_PROMPT = re.compile(rb'"prompt_tokens":(\d+)')
FAILURE_BYTES = 300


@dataclass(slots=True)
class Tally:
    """What a crowd had so far; its answers count into it while they stream."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    done: int = 0
    in_flight: int = 0


class Answer:
    """The answer to one request of a crowd."""

    __slots__ = (
        "_before",
        "_last",
        "_tally",
        "begun_s",
        "first_s",
        "output_tokens",
        "prompt_tokens",
    )

    def __init__(self, tally: Tally, prompt_tokens: int) -> None:
        self._tally = tally
        self._before = self._last = b""
        self.prompt_tokens = prompt_tokens
        self.output_tokens = 0
        self.first_s = -1.0
        self.begun_s = time.monotonic()

    def feed(self, body: bytes) -> None:
        """Take a piece of the body: one event or a few. Each event with a delta counts as a token;
        what a server put into one event is counted at the end, by the usage."""
        self._before, self._last = self._last, body
        deltas = body.count(b'"delta":')
        if self.first_s < 0:
            if _TEXT.search(body) is None:
                return  # names the role, or is an error
            self.first_s = time.monotonic()
            self._tally.prompt_tokens += self.prompt_tokens
        self.output_tokens += deltas
        self._tally.output_tokens += deltas

    def end(self, *, output_tokens: int) -> str:
        """The answer is whole. Returns what is wrong with it, "" if nothing is."""
        if self.first_s < 0:
            return f"no text came: {self.text}"
        tail = self._before + self._last
        completion, prompt = _COMPLETION.search(tail), _PROMPT.search(tail)
        if not tail.endswith(b"data: [DONE]\n\n"):
            return f"no [DONE] at the end: {self.text}"
        if completion is None or prompt is None:
            return f"no usage at the end: {self.text}"
        self._tally.output_tokens += int(completion[1]) - self.output_tokens
        self.output_tokens = int(completion[1])
        if self.output_tokens != output_tokens:
            return f"asked for {output_tokens} tokens, got {self.output_tokens}"
        if int(prompt[1]) != self.prompt_tokens:
            return f"a prompt of {int(prompt[1])} tokens and not {self.prompt_tokens}"
        return ""

    @property
    def text(self) -> str:
        """The last of what came, for error messages."""
        return (self._before + self._last)[-FAILURE_BYTES:].decode(errors="replace")
