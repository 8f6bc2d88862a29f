"""Prompts of an exact number of tokens, no two alike.

Each word below is one token of the demo's model, wherever it stands, so a prompt has the tokens of
its template and one for each word. `template_tokens` asks the server whether that is so.
"""

import http.client
import json
import random

from infer_daemon.bench.servers import HOST, ServerProblem

_WORDS = (
    "the a daemon queue engine request tenant model key log file token time answer user wait limit "
    "restart stream socket error client server line name part step work run start stop first last "
    "new long short open read write send ask turn share second"
)
WORDS = _WORDS.split()
BEGINNING = "Read:"
MODEL = "demo"


def prompt(rng: random.Random, words: int) -> str:
    """A prompt of so many words beside its template."""
    return " ".join((BEGINNING, *rng.choices(WORDS, k=words)))


def template_tokens(port: int, key: str) -> int:
    """How many tokens a prompt without words has.

    Raises:
        ServerProblem: the server does not answer, or counts some word as more than one token.
    """
    empty = _prompt_tokens(port, key, BEGINNING)
    full = _prompt_tokens(port, key, " ".join((BEGINNING, *WORDS)))
    if full - empty != len(WORDS):
        raise ServerProblem(f"{len(WORDS)} words are {full - empty} tokens of this model")
    return empty


def _prompt_tokens(port: int, key: str, text: str) -> int:
    """What the server itself says that a prompt has."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
    except OSError as error:
        raise ServerProblem(f"a first request was not answered: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ServerProblem(f"a first request was answered {response.status}: {answer[:500]!r}")
    return int(json.loads(answer)["usage"]["prompt_tokens"])
