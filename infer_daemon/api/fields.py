"""Fields of a request's body that are not the client's to choose."""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ClientError

OURS = frozenset(
    {
        "cache_salt",
        "data_parallel_rank",
        "kv_transfer_params",
        "priority",
        "request_id",
        "session_id",
        "vllm_xargs",
    }
)
"""What the daemon decides: who goes first, on which engine, under which id, and beside whom in the
prefix cache. Dropped without a word, since clients that talk to vLLM may send them."""
_MEDIA = frozenset(
    {"image_url", "audio_url", "video_url", "input_audio", "file_url", "file", "source"}
)
_CONTAINERS = (dict, list)
_ODD = re.compile(r"[\\\s@\x00-\x1f]")


def without_what_is_ours(body: dict[str, Any]) -> dict[str, Any]:
    """The body without the fields that the daemon decides."""
    return {name: value for name, value in body.items() if name not in OURS}


def refuse_what_is_not_ours(endpoint: Endpoint, body: dict[str, Any]) -> None:
    """Refuse the few fields that would need a store of responses, which there is none of: one
    tenant could read another's.

    Raises:
        ClientError: names the field.
    """
    if endpoint is not Endpoint.RESPONSES:
        return
    for name in ("previous_response_id", "background", "conversation"):
        if body.get(name):
            raise ClientError(
                f"{name}: responses are not stored here; send the whole conversation", param=name
            )


def refuse_strange_media(body: dict[str, Any], hosts: Sequence[str]) -> None:
    """Refuse to fetch for a client what the client could not: media by URL, unless from a host on
    the list. Data in the request itself is fine; files of this machine never are.

    Raises:
        ClientError: shows the beginning of the URL.
    """
    allowed = {host.lower() for host in hosts}
    for place, url in _media_urls(body):
        if url[:5].lower() == "data:":
            continue
        host = _host(url)
        if host is None or host not in allowed:
            raise ClientError(
                f"{place}: this daemon does not fetch from {url[:100]!r}; send the data itself",
                param=place,
            )


def _host(url: str) -> str | None:
    """The host of a plain http or https URL; None for any other. Parsers disagree about odd URLs,
    so one that may be odd is none of ours: what we allow must be what is fetched."""
    if _ODD.search(url):
        return None
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None


def _media_urls(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every URL of a medium, wherever it is, with the name of its field."""
    open_values: list[Any] = [body]
    while open_values:
        value = open_values.pop()
        if isinstance(value, dict):
            if not _MEDIA.isdisjoint(value):
                yield from _urls_in(value)
            value = value.values()
        open_values += [item for item in value if isinstance(item, _CONTAINERS)]


def _urls_in(fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _MEDIA & fields.keys():
        item = fields[name]
        url = item.get("url") if isinstance(item, dict) else item
        if isinstance(url, str):
            yield name, url


def depth(value: Any) -> int:
    """How deep lists and objects are nested. Not by recursion: a client chooses the depth."""
    level, deepest = [value], 0
    while level:
        deepest += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, _CONTAINERS)
        ]
    return deepest
