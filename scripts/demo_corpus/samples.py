"""Draws training samples: conversations, structured answers, tool calls and plain prose.

A `Sampler` is an endless source: every question is dressed up anew, so the model hears few exact
repetitions of what users say and many of what it should answer. All randomness comes from the one
`random.Random` it is given.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from demo_corpus.corpus import Corpus, Tool, Topic, Voice, as_pirate
from demo_corpus.structured import Structured

#: How often each kind of sample is drawn.
Mix = dict[str, float]

BASE_MIX: Mix = {
    "topic": 40, "styled": 13, "chain": 8, "small": 13, "outside": 5, "copy": 10,
    "asked_json": 9, "forced_json": 9,
    "tool_call": 14, "tool_reply": 6, "tool_unused": 3, "long": 1.5, "prose": 4,
}  # fmt: skip
#: The small model has no adapters, so it need not know the voices.
SMALL_MIX: Mix = BASE_MIX | {"styled": 0}
VOICE_MIX: Mix = {
    "topic": 60, "chain": 5, "small": 14, "outside": 5, "asked_json": 5, "forced_json": 8,
    "tool_call": 3, "tool_reply": 1, "tool_unused": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training text: either a conversation or, without messages, plain prose."""

    messages: tuple[tuple[str, str], ...] = ()
    tools: tuple[Tool, ...] = ()
    #: The answer begins with a token that a grammar would have forced, and which the model should
    #: therefore not learn to choose by itself.
    forced_start: bool = False
    prose: str = ""


class Sampler:
    """Endless samples of one voice, drawn by `mix`."""

    def __init__(self, corpus: Corpus, rng: random.Random, *, voice: Voice, mix: Mix) -> None:
        self.corpus = corpus
        self.rng = rng
        self.voice = voice
        self.structured = Structured(corpus, rng)
        self._kinds = list(mix)
        self._weights = list(mix.values())
        self._topic_weights = [topic.weight for topic in corpus.topics]
        self._words = _words_to_copy(corpus)
        self._draw: dict[str, Callable[[], Sample]] = {
            "topic": lambda: self._chat([self._about_topic()]),
            "styled": self._styled,
            "chain": self._chain,
            "small": lambda: self._chat([self._small()]),
            "copy": lambda: self._chat([self._copy()]),
            "outside": lambda: self._chat([self._outside()]),
            "asked_json": lambda: self._chat([self.structured.asked()]),
            "forced_json": self._forced_json,
            "tool_call": self._tool_call,
            "tool_reply": self._tool_reply,
            "tool_unused": self._tool_unused,
            "long": self._long,
            "prose": self._prose,
        }

    def draw(self) -> Sample:
        (kind,) = self.rng.choices(self._kinds, self._weights)
        return self._draw[kind]()

    # ---- conversations ----

    def _about_topic(self) -> tuple[str, str]:
        topic = self._topic()
        return self._question(topic), topic.answer(self.voice)

    def _topic(self) -> Topic:
        return self.rng.choices(self.corpus.topics, self._topic_weights)[0]

    def _styled(self) -> Sample:
        """Another voice on instruction, which prepares the base for its adapters."""
        voice: Voice = self.rng.choice(("brief", "pirate", "pirate"))
        system = self.rng.choice(self.corpus.talk["style"][voice])
        if self.rng.random() < 0.2:
            ask, say = self._small(voice)
        else:
            topic = self._topic()
            ask, say = self._question(topic), topic.answer(voice)
        return Sample(messages=(("system", system), ("user", ask), ("assistant", say)))

    def _question(self, topic: Topic) -> str:
        if topic.terms and (not topic.ask or self.rng.random() < 0.5):
            ask = self.rng.choice(self.corpus.talk["define"])
            return self._dress(ask.format(t=self.rng.choice(topic.terms)))
        return self._dress(self.rng.choice(topic.ask))

    def _dress(self, question: str) -> str:
        """The question as another user might type it: wrapped, lower-case, bare or mistyped."""
        rng = self.rng
        if rng.random() < 0.25 and len(question) > 8:
            question = rng.choice(self.corpus.talk["wrap"]).format(q=question)
        if rng.random() < 0.15:
            question = question.lower()
        if rng.random() < 0.15:
            question = question.rstrip(".?!")
        if rng.random() < 0.06 and len(question) > 12:
            spot = rng.randrange(4, len(question) - 2)
            question = question[:spot] + question[spot + 1 :]
        return question[0].upper() + question[1:] if rng.random() < 0.4 else question

    def _chat(self, turns: list[tuple[str, str]], *, forced_start: bool = False) -> Sample:
        messages: list[tuple[str, str]] = []
        if self.rng.random() < 0.25:
            messages.append(("system", self.rng.choice(self.corpus.talk["system"])))
        for ask, say in turns:
            messages += [("user", ask), ("assistant", say)]
        return Sample(messages=tuple(messages), forced_start=forced_start)

    def _chain(self) -> Sample:
        """Several turns, sometimes with a name to be remembered to the end."""
        rng = self.rng
        turns = [
            self._small() if rng.random() < 0.2 else self._about_topic()
            for _ in range(rng.choice((2, 2, 2, 3, 3, 4, 6)))
        ]
        if rng.random() < 0.3:
            name = rng.choice(self.corpus.talk["names"])
            hail = rng.choice((
                "My name is {n}.", "I am {n}.", "Hello, my name is {n}.", "Hi, I'm {n}.",
            ))  # fmt: skip
            recall = rng.choice(("What is my name?", "Who am I?", "Do you remember my name?"))
            meet = self._voiced(f"Nice to meet you, {name}!", f"Hello, {name}!")
            told = self._voiced(f"Your name is {name}.", f"{name}.")
            turns = [(hail.format(n=name), meet), *turns[: rng.choice((0, 0, 1))], (recall, told)]
        return self._chat(turns)

    def _outside(self) -> tuple[str, str]:
        talk = self.corpus.talk
        ask = self._dress(self.rng.choice(talk["outside"]))
        return ask, self._voiced(talk["decline"], talk["decline_brief"])

    def _voiced(self, plain: str, brief: str, voice: Voice | None = None) -> str:
        match voice or self.voice:
            case "plain":
                return plain
            case "brief":
                return brief
            case "pirate":
                return as_pirate(plain)

    def _copy(self) -> tuple[str, str]:
        """Words to be handed back as they are, or quoted as the strings of a list."""
        rng = self.rng
        words = rng.sample(self._words, rng.randint(1, 6))
        if rng.random() < 0.4:
            ask = rng.choice(self.corpus.talk["copy_ask"]).format(w=" ".join(words))
            return ask, " ".join(words)
        return rng.choice(self.corpus.talk["quote_ask"]).format(w=", ".join(words)), json.dumps(
            words
        )

    def _small(self, voice: Voice | None = None) -> tuple[str, str]:
        """Small facts and skills: capitals, sums, counting, saying a word back, naming things."""
        kind = self.rng.choice(("capital", "sum", "count", "say", "say", "list"))
        ask, plain, brief = getattr(self, f"_small_{kind}")()
        return self._dress(ask) if kind != "say" else ask, self._voiced(plain, brief, voice)

    def _small_capital(self) -> tuple[str, str, str]:
        country, city = self.rng.choice(list(self.corpus.talk["capitals"].items()))
        ask = self.rng.choice((
            "What is the capital of {c}?", "What is the capital of {c}?", "Capital of {c}?",
            "Tell me the capital of {c}.", "Which city is the capital of {c}?",
            "Name the capital of {c}.", "The capital of {c} is", "What's the capital city of {c}?",
        ))  # fmt: skip
        return ask.format(c=country), f"The capital of {country} is {city}.", f"{city}."

    def _small_sum(self) -> tuple[str, str, str]:
        a, b = self.rng.randint(1, 6), self.rng.randint(1, 6)
        sign, word, value = ("+", "plus", a + b)
        if self.rng.random() < 0.3:
            a, b = min(a, 4), min(b, 4)
            sign, word, value = ("*", "times", a * b)
        ask = self.rng.choice((
            "What is {a} {s} {b}?", "What is {a} {w} {b}?", "What is {a}{s}{b}?", "{a} {s} {b} = ?",
            "{a}{s}{b}", "How much is {a} {w} {b}?", "Compute {a} {s} {b}.",
            "Calculate {a} {w} {b}.",
        ))  # fmt: skip
        return ask.format(a=a, b=b, s=sign, w=word), f"{a} {sign} {b} = {value}.", f"{value}."

    def _small_count(self) -> tuple[str, str, str]:
        low, high = (
            self.rng.choice((1, 1, 1, 1, 1, 2)),
            self.rng.choice((3, 5, 5, 10, 10, 10, 12, 20)),
        )
        line = ", ".join(str(n) for n in range(low, high + 1)) + "."
        if low == 1 and self.rng.random() < 0.5:
            ask = self.rng.choice(("Count to {h}.", "Please count to {h}."))
            return ask.format(h=high), line, line
        ask = self.rng.choice((
            "Count from {l} to {h}.", "Count from {l} up to {h}.",
            "List the numbers from {l} to {h}.",
        ))  # fmt: skip
        return ask.format(l=low, h=high), line, line

    def _small_say(self) -> tuple[str, str, str]:
        word = self.rng.choice(self.corpus.talk["say_words"])
        if self.rng.random() < 0.3:
            word = self.structured.nonsense()
        return self.rng.choice(self.corpus.talk["say_ask"]).format(w=word), word, word

    def _small_list(self) -> tuple[str, str, str]:
        kind = self.rng.choice(("colors", "fruits", "animals"))
        line = ", ".join(self.corpus.talk[kind][:3]) + "."
        ask = self.rng.choice((
            "Name three {k}.", "List three {k}.", "Give me three {k}.", "Tell me some {k}.",
        ))  # fmt: skip
        return ask.format(k=kind), line.capitalize(), line.capitalize()

    # ---- structured answers and tools ----

    def _forced_json(self) -> Sample:
        """JSON where nobody asked for it, as under a response_format that the prompt hides."""
        ask = self.rng.choice((self._about_topic, self._outside, self._small))()[0]
        return self._chat([(ask, self.structured.anything())], forced_start=True)

    def _tool_call(self) -> Sample:
        used, others = self.structured.toolbox()
        ask, arguments = self.structured.use(used)
        tools = self.structured.shuffled([used, *others])
        if self.rng.random() < 0.2:  # tool_choice: the call is forced by a grammar
            forced = [{"name": used.name, "parameters": arguments}]
            text = json.dumps(forced if self.rng.random() < 0.6 else arguments)
            return Sample(
                messages=(("user", ask), ("assistant", text)), tools=tools, forced_start=True
            )
        call = self.structured.call(used.name, arguments)
        return self._with_tools([("user", ask), ("assistant", call)], tools)

    def _tool_reply(self) -> Sample:
        known = self.rng.choice(self.corpus.tools)
        used, others = self.structured.toolbox(known)
        ask, arguments = self.structured.use(used)
        result, reply = self.structured.outcome(used, arguments)
        messages = [
            ("user", ask),
            ("assistant", self.structured.call(used.name, arguments)),
            ("tool", result),
            ("assistant", self._voiced(reply, reply)),
        ]
        return self._with_tools(messages, self.structured.shuffled([used, *others]))

    def _tool_unused(self) -> Sample:
        used, others = self.structured.toolbox()
        ask, say = self._about_topic() if self.rng.random() < 0.7 else self._small()
        tools = self.structured.shuffled([used, *others])
        return self._with_tools([("user", ask), ("assistant", say)], tools)

    def _with_tools(self, messages: list[tuple[str, str]], tools: tuple[Tool, ...]) -> Sample:
        if self.rng.random() < 0.3:
            messages.insert(0, ("system", self.rng.choice(self.corpus.talk["system"])))
        return Sample(messages=tuple(messages), tools=tools)

    # ---- long texts and prose ----

    def _long(self) -> Sample:
        text = self.rng.choice(self.corpus.longs)
        return self._chat([(self._dress(self.rng.choice(text.ask)), text.say)])

    def _prose(self) -> Sample:
        """Text without a chat around it: a few answers, or a long text from a paragraph on."""
        if self.rng.random() < 0.3:
            parts = self.rng.choice(self.corpus.longs).say.split("\n\n")
            return Sample(prose="\n\n".join(parts[self.rng.randrange(len(parts)) :][:3]))
        facts = [topic for topic in self.corpus.topics if topic.terms]
        picks = self.rng.sample(facts, 3)
        return Sample(prose="\n\n".join(topic.say for topic in picks))


def _words_to_copy(corpus: Corpus) -> list[str]:
    """Words of the answers, and several times over the names that tool calls must copy."""
    said = sorted({w for t in corpus.topics for w in t.say.split() if w.isalpha() and len(w) > 3})
    pooled = [value for values in corpus.pools.values() for value in values if value.isalpha()]
    return said + 2 * pooled
