"""A request for too much, made to fit before it is rendered, where its tenant or model wants that.

A prompt that is too long and may not be cut is refused when it has been rendered, with its exact
length.
"""

from dataclasses import replace
from math import inf
from typing import Any

from infer_daemon.admission import asks
from infer_daemon.admission.sizes import CHATS, Sizes
from infer_daemon.admission.truncation import HEADER, DoesNotFit, drop_oldest_turns, keep_tail
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import PromptTooLong
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Call, Frontend

TOKENS_PER_CHARACTER_MAX = 4
"""A character has at most four bytes and no tokeniser makes more tokens than that of it."""
TOKENS_PER_TURN = 64
"""What a template adds to each message and each tool call, generously."""
_WRITTEN_TOO = ("tools", "documents", "chat_template", "chat_template_kwargs")
"""What a template may make a prompt longer by, at a length that only counting tells."""


async def fit(call: Call, sizes: Sizes, frontend: Frontend, record: RequestRecord) -> Call:
    """The call as it may be rendered; what was dropped is told in the record.

    Raises:
        PromptTooLong: not even the last turn fits.
    """
    turns = call.body.get(CHATS.get(call.endpoint, ""))
    is_text = call.endpoint is Endpoint.COMPLETIONS
    may_cut = sizes.may_cut(call.endpoint) and (is_text or isinstance(turns, list))
    asked = asks.output_tokens(call.endpoint, call.body)
    if asked is not None and (most := sizes.askable_output(asked)) < asked:
        call = replace(call, body=asks.with_output_tokens(call.endpoint, call.body, most))
    room = sizes.prompt_room(asked)
    if room is None or not may_cut or _token_count_at_most(call.body, record) <= room.most_tokens:
        return call

    async def count(messages: list[Any]) -> int:
        body = {**call.body, CHATS[call.endpoint]: messages}
        return await frontend.count_tokens(replace(call, body=body))

    if is_text:
        prompt_tokens = await frontend.count_tokens(call)
        cut = keep_tail(call.body, room, prompt_tokens)
        body, told = cut.body, cut.header
    else:
        try:
            chat = await drop_oldest_turns(turns or [], room, count)
        except DoesNotFit as error:
            raise PromptTooLong(
                f"the last turn alone has {error.least_tokens} tokens, {error.limit_tokens} fit",
                param="messages",
            ) from None
        body, told = {**call.body, CHATS[call.endpoint]: chat.messages}, chat.header
    if told:
        record.told[HEADER] = told
        record.note(f"truncated: {told}")
    return replace(call, body=body)


def _token_count_at_most(body: dict[str, Any], record: RequestRecord) -> float:
    """Of its prompt. Where that is short enough, counting can be spared."""
    turns = body.get("messages") or body.get("input")
    if not isinstance(body.get("prompt", ""), str) or any(name in body for name in _WRITTEN_TOO):
        return inf
    count = sum(map(_pieces, turns)) if isinstance(turns, list) else 1
    return TOKENS_PER_CHARACTER_MAX * record.text_len + TOKENS_PER_TURN * count


def _pieces(turn: Any) -> float:
    """A message and its tool calls; infinite with a part that is no text, such as an image."""
    if not isinstance(turn, dict):
        return 1
    content, calls = turn.get("content"), turn.get("tool_calls")
    if isinstance(content, list) and any(isinstance(p, dict) and "text" not in p for p in content):
        return inf
    return 1 + (len(calls) if isinstance(calls, list) else 0)
