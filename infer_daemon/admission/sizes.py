"""How long prompts and answers may be: the least of what tenant, model, daemon and engine allow."""

from collections.abc import Iterable, Sequence

from infer_daemon.admission.truncation import Room
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import OutputTooLong, PromptTooLong
from infer_daemon.settings.schema import LimitsSection

CHATS = {
    Endpoint.CHAT: "messages",
    Endpoint.MESSAGES: "messages",
    Endpoint.RESPONSES: "input",
}
"""Endpoints whose prompt is a list of turns, and where it is."""
TEXT_PER_TOKEN_MAX = 64
"""Characters that no tokeniser puts into one token on average: more text than that is too long,
whatever the exact count."""


class Sizes:
    """What holds for one request."""

    def __init__(self, limits: Sequence[LimitsSection], context_tokens: int | None) -> None:
        """Args: limits: of the tenant, the model and the daemon, the first to say something decides
        how; context_tokens: of the engine."""
        self.context_tokens = _least([context_tokens, *(s.max_context_tokens for s in limits)])
        self.prompt_tokens = _least([self.context_tokens, *(s.max_prompt_tokens for s in limits)])
        self.output_tokens = _least([s.max_output_tokens for s in limits])
        self.default_output_tokens = _least([s.default_output_tokens for s in limits])
        self._per_minute = _least([s.output_tokens_per_minute for s in limits])
        self._refuses_output = _first([s.over_max_output for s in limits], "clamp") == "refuse"
        self.too_long_chat = _first([s.too_long_chat for s in limits], "reject")
        self.too_long_text = _first([s.too_long_text for s in limits], "reject")

    def may_cut(self, endpoint: Endpoint) -> bool:
        """Whether a prompt that is too long is cut instead of refused."""
        if endpoint is Endpoint.COMPLETIONS:
            return self.too_long_text == "keep_tail"
        return endpoint in CHATS and self.too_long_chat == "drop_oldest_turns"

    def refuse_absurd(self, text_len: int) -> None:
        """Before anything is tokenised.

        Raises:
            PromptTooLong: however it is tokenised.
        """
        if self.prompt_tokens is None:
            return
        if text_len > self.prompt_tokens * TEXT_PER_TOKEN_MAX:
            raise PromptTooLong(
                f"the prompt has {text_len} characters, which are more than the "
                f"{self.prompt_tokens} tokens that it may have",
                param="prompt",
            )

    def refuse_prompt(self, prompt_tokens: int) -> None:
        """Raises: PromptTooLong, with both numbers."""
        if self.prompt_tokens is not None and prompt_tokens > self.prompt_tokens:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens, it may have {self.prompt_tokens}",
                param="prompt",
            )

    def refuse_output(self, asked_tokens: int, field: str | None = None) -> None:
        """Args: field: where that was asked for.

        Raises: OutputTooLong, where more than is allowed is refused and not clamped."""
        most = self.output_tokens
        if self._refuses_output and most is not None and asked_tokens > most:
            raise OutputTooLong(
                f"the request asks for {asked_tokens} output tokens, it may have {most}",
                param=field,
            )

    def askable_output(self, asked_tokens: int) -> int:
        """What the front end may be asked for: it refuses more than the context, and would do so
        also where a party wants its requests clamped."""
        if self.context_tokens is None or self._refuses_output:
            return asked_tokens
        return min(asked_tokens, self.context_tokens)

    def prompt_room(self, asked: int | None) -> Room | None:
        """How long a prompt may be that is cut to fit.

        One that leaves room for a single token of output fits: the answer takes what is left. One
        that has to be cut leaves room for the answer that is asked for, but for no more than half
        of the context: what is left of a prompt is to be worth an answer.
        """
        if self.prompt_tokens is None:
            return None
        if self.context_tokens is None:
            return Room(self.prompt_tokens, self.prompt_tokens)
        answer = _least([asked or self.default_output_tokens or 1, self.output_tokens]) or 1
        claim = max(1, min(answer, self.context_tokens // 2))
        fits = max(1, min(self.prompt_tokens, self.context_tokens - 1))
        return Room(fits, max(1, min(fits, self.context_tokens - claim)))

    def output(self, prompt_tokens: int, planned: int, asked: int | None, seqs: int) -> int:
        """Output tokens of each sequence: no more than planned, nor than any limit.

        Args:
            planned: what the engine would be asked for.
            asked: what the client has asked for, if it has said.
            seqs: sequences that share a minute's tokens.
        """
        found = [planned, self.output_tokens]
        if asked is None:
            found.append(self.default_output_tokens)
        if self.context_tokens is not None:
            found.append(max(1, self.context_tokens - prompt_tokens))
        if self._per_minute is not None:
            found.append(max(1, self._per_minute // seqs))
        return _least(found) or planned


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _first(values: Iterable[str | None], otherwise: str) -> str:
    return next((value for value in values if value is not None), otherwise)
