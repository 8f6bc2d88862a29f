"""What a client can ask for, independent of the path it is asked on."""

from enum import StrEnum


class Endpoint(StrEnum):
    """One kind of request. Several paths may lead to the same endpoint (`/score`, `/v1/score`)."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    EMBEDDINGS = "embeddings"
    SCORE = "score"
    RERANK = "rerank"
    CLASSIFY = "classify"
    POOLING = "pooling"
    TRANSCRIPTIONS = "transcriptions"
    TRANSLATIONS = "translations"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


WITHOUT_ENGINE = frozenset({Endpoint.TOKENIZE, Endpoint.DETOKENIZE, Endpoint.COUNT_TOKENS})
"""Answered as soon as the text has been looked at: no engine is waited for."""
INPUTS_MAX = 2048
"""Most inputs of one embedding, score or rerank request: what OpenAI's own endpoint takes. Each is
one pass through the model, which is much less than a generation."""
