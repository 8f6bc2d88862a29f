"""What a request may need of a model, and a model may have."""

from enum import StrEnum


class Feature(StrEnum):
    """What a request may need besides its endpoint."""

    TOOLS = "tools"
    VISION = "vision"
    AUDIO = "audio"
    REASONING = "reasoning"
    GRAMMAR = "grammar"
    LOGPROBS = "logprobs"
