"""Typed access to the data files: what there is to talk about, without chance.

`Corpus.load` reads every file once. The voices live here too, since a voice is a property of the
text: the brief answer stands beside each topic, the pirate's is made from the plain one by rule.
"""

import re
import tomllib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Voice = Literal["plain", "brief", "pirate"]

HERE = Path(__file__).parent

#: Whole words that a pirate says differently; the case of the first letter is kept.
PIRATE_WORDS = {
    "you": "ye", "your": "yer", "is": "be", "are": "be", "am": "be", "my": "me", "of": "o'",
    "and": "an'", "hello": "ahoy", "yes": "aye", "no": "nay", "goodbye": "fair winds",
    "good": "fine", "small": "wee", "little": "wee", "team": "crew", "machine": "ship",
    "clients": "sailors", "client": "sailor", "cannot": "can't", "never": "ne'er",
}  # fmt: skip
PIRATE_ENDS = ("Yo ho ho!", "Aye, that be so!", "Shiver me timbers!")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One thing the model can be asked about, with the answer of each voice."""

    terms: tuple[str, ...]
    ask: tuple[str, ...]
    say: str
    brief: str
    #: How much more often than others it is drawn.
    weight: int

    def answer(self, voice: Voice) -> str:
        match voice:
            case "plain":
                return self.say
            case "brief":
                return self.brief
            case "pirate":
                return as_pirate(self.say)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongText:
    """A text of several hundred tokens and the requests that call for it."""

    ask: tuple[str, ...]
    say: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model is offered. `args` maps "name|other name" to a pool of values."""

    name: str
    description: str
    args: dict[str, str]
    ask: tuple[str, ...]
    result: tuple[str, ...]
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Everything in the data files."""

    topics: tuple[Topic, ...]
    longs: tuple[LongText, ...]
    tools: tuple[Tool, ...]
    pools: dict[str, list[str]]
    #: Tables that are used as they stand; their shape is described in the files themselves.
    talk: dict[str, Any]
    fields: dict[str, Any]
    invented: dict[str, list[str]]
    chat_template: str

    @staticmethod
    def load() -> "Corpus":
        talk, tools = _read("talk.toml"), _read("tools.toml")
        return Corpus(
            topics=tuple(
                Topic(
                    terms=tuple(t["terms"]),
                    ask=tuple(t["ask"]),
                    say=t["say"],
                    brief=t["brief"],
                    weight=t.get("weight", 1),
                )
                for t in _read("topics.toml")["topic"]
            ),
            longs=tuple(LongText(ask=tuple(t["ask"]), say=t["say"]) for t in talk["long"]),
            tools=tuple(
                Tool(
                    name=t["name"],
                    description=t["description"],
                    args=t["args"],
                    ask=tuple(t["ask"]),
                    result=tuple(t["result"]),
                    reply=t["reply"],
                )
                for t in tools["tool"]
            ),
            pools=tools["pools"],
            talk=talk,
            fields=_read("fields.toml"),
            invented=tools["invented"],
            chat_template=(HERE / "chat_template.jinja").read_text().strip(),
        )


def as_pirate(text: str) -> str:
    """The same answer in the mouth of a pirate; always the same for the same text."""

    def swap(found: re.Match[str]) -> str:
        word = found.group(0)
        other = PIRATE_WORDS.get(word.lower(), word)
        return other[0].upper() + other[1:] if word[0].isupper() else other

    # Only whole lower-case or capitalised words: commands and code stay as they are.
    said = re.sub(r"(?<![\w./\[_-])[A-Za-z]+(?![\w/_-])", swap, text)
    end = PIRATE_ENDS[zlib.crc32(text.encode()) % len(PIRATE_ENDS)]
    return f"Arr, matey! {said} {end}"


def _read(name: str) -> dict[str, Any]:
    with (HERE / name).open("rb") as file:
        return tomllib.load(file)
