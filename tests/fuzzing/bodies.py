"""Requests to every path, from quite right to quite wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing.values import VALUES, copy_of, spoiled, text_of

JSON_SCHEMA = {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PARTS = [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "http://a/"}}]

FIELDS: dict[str, list[Any]] = {
    "n": [1, 2, 0, 129, 10**9],
    "max_tokens": [1, 4, 0, 10**9, "4", 4.0],
    "max_completion_tokens": [1, 4, 10**9],
    "max_output_tokens": [1, 4],
    "min_tokens": [0, 1, 3],
    "temperature": [0, 1, 2.5, -1],
    "top_p": [0.5, 1, 0],
    "top_k": [1, -1, 0],
    "min_p": [0, 1],
    "seed": [0, -1, 2**63],
    "presence_penalty": [0, 2, -3],
    "frequency_penalty": [0, 2, -3],
    "repetition_penalty": [1, 0, 1e9],
    "logprobs": [True, 1, 0, -1, 21],
    "top_logprobs": [0, 1, 20, -1],
    "prompt_logprobs": [0, 1, -1],
    "logit_bias": [{"1": 5}, {"x": 1}, {"999999": 1}, {"1": 1e9}],
    "stop": ["a", ["a", "b"], [""], "", ["a"] * 99],
    "stop_token_ids": [[1], [-1], [10**9]],
    "bad_words": [["a"], [""]],
    "stream": [True, True, False, "true"],
    "stream_options": [{"include_usage": True}, {"continuous_usage_stats": True}, {}],
    "response_format": [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": JSON_SCHEMA},
        {"type": "text"},
        {"type": "structural_tag", "structures": [], "triggers": []},
    ],
    "structured_outputs": [{"regex": "a+"}, {"choice": ["a", "b"]}, {"json": {}}, {"grammar": "x"}],
    "guided_json": [{}, "{}"],
    "tools": [[TOOL], [TOOL] * 9, []],
    "tool_choice": ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}],
    "parallel_tool_calls": [True],
    "reasoning_effort": ["low", "none"],
    "thinking": [{"type": "enabled", "budget_tokens": 1024}],
    "metadata": [{"a": "b"}, {"a": "b" * 600}, {str(key): "v" for key in range(40)}],
    "user": ["u"],
    "service_tier": ["auto", "priority", "flex"],
    "echo": [True],
    "suffix": ["a"],
    "best_of": [2],
    "use_beam_search": [True],
    "ignore_eos": [True],
    "skip_special_tokens": [False],
    "add_generation_prompt": [False],
    "continue_final_message": [True],
    "chat_template": ["{{ messages }}"],
    "chat_template_kwargs": [{"a": 1}],
    "documents": [[{"title": "a", "text": "b"}]],
    "truncate_prompt_tokens": [1, 0, -1, 10**9],
    "truncation": ["auto", "disabled"],
    "encoding_format": ["float", "base64"],
    "dimensions": [2, 0, 10**9],
    "add_special_tokens": [True],
    "return_token_ids": [True],
    "priority": [7],
    "request_id": ["mine"],
    "cache_salt": ["mine"],
    "vllm_xargs": [{"a": 1}],
    "kv_transfer_params": [{"a": 1}],
    "previous_response_id": ["resp_1"],
    "instructions": ["be brief"],
    "reasoning": [{"effort": "low"}],
    "text": [{"format": {"type": "json_schema", "name": "x", "schema": {}}}],
    "include": [["reasoning.encrypted_content"]],
    "include_reasoning": [False],
    "system": ["s", [{"type": "text", "text": "s"}]],
    "top_n": [1, 0],
    "repetition_detection": [{"max_pattern_size": 3, "min_count": 2}],
}
"""Fields of some endpoint or other, with values that may well be right."""

MAIN = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
"""What every kind of engine answers."""
USER: dict[str, Any] = {"role": "user", "content": "a b c"}
TALK: list[Any] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": PARTS[:1]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "7"},
    USER,
]


def good_bodies(model: str, embedder: str) -> dict[str, list[dict[str, Any]]]:
    """By path: what is answered, where the model can."""
    chat: list[dict[str, Any]] = [
        {"messages": [USER], "max_tokens": 3},
        {"messages": TALK, "max_tokens": 3, "tools": [TOOL]},
        {"messages": [{"role": "user", "content": PARTS}]},
    ]
    text: list[dict[str, Any]] = [
        {"prompt": "a b c", "max_tokens": 3},
        {"prompt": ["a", "b c"], "max_tokens": 2},
        {"prompt": [1, 2, 3], "max_tokens": 2},
        {"prompt": [[1, 2], [3]], "max_tokens": 2},
    ]
    talk: list[dict[str, Any]] = [
        {"input": "a b", "max_output_tokens": 3},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]},
    ]
    claude: list[dict[str, Any]] = [{"messages": [USER], "max_tokens": 3}]
    pairs: list[dict[str, Any]] = [{"query": "a", "documents": ["b", "c"]}]
    scores: list[dict[str, Any]] = [
        {"text_1": "a", "text_2": ["b", "c"]},
        {"queries": "a", "documents": ["b"]},
    ]
    inputs: list[dict[str, Any]] = [{"input": "a b"}, {"input": ["a", "b"]}, {"input": [[1], [2]]}]
    asked = {
        "/v1/chat/completions": (model, chat),
        "/v1/completions": (model, text),
        "/v1/responses": (model, talk),
        "/v1/messages": (model, claude),
        "/v1/messages/count_tokens": (model, claude),
        "/v1/embeddings": (embedder, inputs),
        "/v1/score": (embedder, scores),
        "/score": (embedder, scores),
        "/v1/rerank": (embedder, pairs),
        "/v2/rerank": (embedder, pairs),
        "/rerank": (embedder, pairs),
        "/classify": (embedder, inputs),
        "/pooling": (embedder, inputs),
        "/v1/audio/transcriptions": (model, [{}]),
        "/v1/audio/translations": (model, [{}]),
        "/tokenize": (model, [{"prompt": "a b"}, {"messages": [USER]}]),
        "/detokenize": (model, [{"tokens": [1, 2]}]),
        "/v1/feedback": (model, [{"request_id": "a" * 24, "accepted": True, "score": 0.5}]),
    }
    return {
        path: [{"model": name, **body} for body in bodies] for path, (name, bodies) in asked.items()
    }


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, byte by byte, on a connection that is kept."""

    method: str
    path: str
    headers: tuple[tuple[str, bytes], ...]
    body: bytes = b""

    def wire(self) -> bytes:
        """As HTTP."""
        lines = [f"{self.method} {self.path} HTTP/1.1".encode(), b"Host: daemon"]
        lines += [name.encode() + b": " + value for name, value in self.headers]
        if self.method == "POST":
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


_DEEP = [b"[" * 100_000, b"[" * 70 + b"]" * 70, b'{"a":' * 5000 + b"1" + b"}" * 5000]
_NO_BODIES = [
    b"", b" ", b"null", b"[]", b'"a"', b"7", b"{", b"{}", b"{}{}", b"\xef\xbb\xbf{}",
    b"\xff\xfe{\0}\0", b'{"model": "a", "model": "b"}', b'{"a": 1e999}',
    b'{"a": ' + b"9" * 5000 + b"}", b"{'a': 1}",
    b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}', b'{"\\u0000": 1}', b"\0" * 50, *_DEEP,
]  # fmt: skip
_TYPES = [
    b"application/json", b"text/plain", b"", b"application/json; charset=utf-16",
    b"multipart/form-data", b"multipart/form-data; boundary=b",
    b"application/x-www-form-urlencoded", b"\xff/\xff",
]  # fmt: skip
_HEADERS: dict[str, list[bytes]] = {
    "x-priority": [b"critical", b"batch", b"", b"nobody", b"\xff", b"interactive " * 99],
    "x-deadline-ms": [b"60000", b"1", b"0", b"-1", b"1e3", b"9" * 5000, b"", "٣".encode()],
    "x-stainless-retry-count": [b"0", b"1", b"x"],
    "x-request-id": [b"mine", b"a" * 3000],
    "Content-Encoding": [b"gzip", b"identity", b"nonsense", b""],
    "Accept": [b"text/event-stream", b"x"],
    "Authorization": [b"Bearer sk-acme", b"Bearer", b"Basic x", b"\xff"],
    "x-api-key": [b"sk-globex", b""],
    "Cookie": [b"a=" + b"b" * 2000],
    "X-Data-Parallel-Rank": [b"7"],
    "x-session-id": [b"mine"],
}
_FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF\r\n--b--\r\n"
)
GETS = [
    "/v1/models", "/v1/models/{}", "/v1/usage", "/v1/usage?since={}", "/v1/usage?{}={}", "/version",
    "/health", "/ready", "/{}", "/v1/chat/completions", "/metrics",
]  # fmt: skip
"""Of tenants; where there are braces anything may stand."""
OPERATORS = [
    "/state", "/story/{}", "/{}", "/ledger/{}", "/ledger/verify", "/ledger/request/{}",
    "/ledger/tail?last={}", "/ledger/top?limit={}", "/ledger/report?{}={}",
    "/ledger/report?since={}&by={}", "/ledger/report?since={}&until={}",
    "/ledger/breakeven?api_input={}&api_output={}",
    "/ledger/breakeven?api_input=1&api_output=2&gpu_hour={}&since={}&setup_usd={}",
]  # fmt: skip
_WORDS = [
    "1d", "7d", "-1d", "1e9d", "9" * 400, "now", "model", "tenant", "since", "by", "0001-01-01",
    "2026-13-45", "2026-01-01T00:00:00Z", "9999-12-31", "%00", "%ff%fe", "%ed%a0%80", "a" * 2000,
    "%F0%9F%98%80", "..%2f..", "'", "%27%3b--", "*", "",
]  # fmt: skip


def escaped(text: str) -> str:
    """As it stands in a URL."""
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="surrogatepass"))


WORDS = st.sampled_from(_WORDS) | st.text(max_size=12).map(escaped)


@st.composite
def gets(draw: Callable[..., Any], paths: list[str], key: str) -> Request:
    """A question without a body."""
    path: str = draw(st.sampled_from(paths))
    while "{}" in path:
        path = path.replace("{}", draw(WORDS), 1)
    method = draw(st.sampled_from(["GET"] * 9 + ["HEAD", "POST", "DELETE", "PATCH"]))
    # The answer to this one has no body, whatever its length says.
    method = "GET" if method == "HEAD" else method
    return Request(method, path, (("Authorization", b"Bearer " + key.encode()),))


@st.composite
def posts(draw: Callable[..., Any], good: Mapping[str, list[dict[str, Any]]], key: str) -> Request:
    """A request to a model."""
    path = draw(st.sampled_from(sorted(good)) | st.sampled_from(MAIN))
    body = copy_of(draw(st.sampled_from(good[path])))
    model = body["model"]
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=4)):
        is_odd = draw(st.integers(0, 3)) == 0
        body[name] = copy_of(draw(VALUES if is_odd else st.sampled_from(FIELDS[name])))
    body = draw(spoiled(body))
    if isinstance(body.get("model"), str) or draw(st.integers(0, 7)):
        body["model"] = model  # or most of them would go no further
    text = text_of(body, is_ascii=draw(st.booleans()))
    headers = [("Authorization", b"Bearer " + key.encode())]
    content_type = b"application/json"
    match draw(st.integers(0, 29)):
        case 0:
            text = draw(st.sampled_from(_NO_BODIES) | st.binary(max_size=200))
        case 1:
            text = text[: draw(st.integers(0, len(text)))]
        case 2:
            at = draw(st.integers(0, len(text)))
            text = text[:at] + draw(st.binary(max_size=3)) + text[at:]
        case 3:
            content_type = draw(st.sampled_from(_TYPES))
        case 4 | 5 | 6:
            for name in draw(st.lists(st.sampled_from(sorted(_HEADERS)), min_size=1, max_size=4)):
                headers.append((name, draw(st.sampled_from(_HEADERS[name]))))
    if path.startswith("/v1/audio") and draw(st.booleans()):
        content_type = b"multipart/form-data; boundary=b"
        text = _FORM % text[:50]
    headers.append(("Content-Type", content_type))
    return Request("POST", path, tuple(headers), text)
