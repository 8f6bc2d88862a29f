"""JSON answers and tool calls, made up from the pools in `fields.toml` and `tools.toml`.

The point of the variety is robustness under a grammar: the model must be ready to go on after any
key with any type of value, must end strings, numbers and lists soon, and must never have seen a run
of whitespace inside JSON. Hence the invented keys and the fields with a value of the wrong type.
"""

import json
import random
import re
from dataclasses import replace

from demo_corpus.corpus import Corpus, Tool

#: What `json.dumps` takes and what the generators here make.
Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

SYLLABLES = (
    "ba", "be", "bo", "da", "den", "fi", "ga", "ko", "la", "lo", "ma", "mi", "na", "no", "pa", "ra",
    "ri", "sa", "so", "ta", "tor", "va", "zu", "ken", "lin", "mar",
)  # fmt: skip


class Structured:
    """Draws JSON and tool calls with the randomness of its owner."""

    def __init__(self, corpus: Corpus, rng: random.Random) -> None:
        self.fields = corpus.fields
        self.tools = corpus.tools
        self.pools = corpus.pools
        self.invented = corpus.invented
        self.rng = rng

    # ---- JSON ----

    def asked(self) -> tuple[str, str]:
        """A request that says JSON, and its answer."""
        rng = self.rng
        if rng.random() < 0.15:
            kind = rng.choice(("colors", "fruits", "animals", "names", "cities"))
            ask = rng.choice(self.fields["list_request"]).format(k=kind)
            return ask, self._dump(self._some(self.fields["list"][kind]))
        thing, usual = rng.choice(list(self.fields["things"].items()))
        if rng.random() < 0.3:
            keys = usual[: rng.randint(2, 4)]
            ask = rng.choice(self.fields["request_bare"]).format(a=thing)
        else:
            keys = rng.sample(usual, rng.randint(1, min(3, len(usual))))
            if rng.random() < 0.5:
                keys = keys + [key for key in self._any_keys(rng.randint(1, 2)) if key not in keys]
            listed = ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else keys[0]
            ask = rng.choice(self.fields["request"]).format(a=thing, keys=listed)
        return ask, self._dump({key: self._value(key) for key in keys})

    def anything(self) -> str:
        """Any JSON object or list, as a grammar that the prompt hides might ask for."""
        rng = self.rng
        if rng.random() < 0.16:
            return self._dump(self._some(rng.choice(list(self.fields["list"].values()))))
        if rng.random() < 0.06:
            return self._dump(self._rows(rng.choice(list(self.fields["rows"]))))
        keys = self._any_keys(rng.randint(1, 5))
        return self._dump({key: self._value(key) for key in keys})

    def nonsense(self) -> str:
        return "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(2, 3)))

    def _any_keys(self, count: int) -> list[str]:
        f, rng = self.fields, self.rng
        groups: list[list[str]] = [
            list(f["text"]), list(f["number"]), f["flag"]["keys"],
            list(f["list"]), list(f["nest"]), list(f["rows"]),
        ]  # fmt: skip
        keys: list[str] = []
        while len(keys) < count:
            (group,) = rng.choices(groups, (8, 6, 3, 3, 2, 2))
            key = self.nonsense() if rng.random() < 0.12 else rng.choice(group)
            if key not in keys:
                keys.append(key)
        return keys

    def _value(self, key: str) -> Json:
        f, rng = self.fields, self.rng
        if rng.random() < 0.88:
            if key in f["text"]:
                return str(rng.choice(f["text"][key]))
            if key in f["number"]:
                number: int | float = rng.choice(f["number"][key])
                return number
            if key in f["flag"]["keys"]:
                return rng.random() < 0.6
            if key in f["list"]:
                return self._some(f["list"][key])
            if key in f["nest"]:
                return self._nested(key)
            if key in f["rows"]:
                return self._rows(key)
        return self._surprise()

    def _surprise(self) -> Json:
        """A value that the key did not promise."""
        f, rng = self.fields, self.rng
        match rng.choice(
            (
                "text",
                "text",
                "text",
                "text",
                "word",
                "word",
                "odd",
                "number",
                "float",
                "flag",
                "list",
                "nest",
            )
        ):
            case "text":
                return str(rng.choice(rng.choice(list(f["text"].values()))))
            case "word":
                return self.nonsense()
            case "odd":
                return self._odd()
            case "number":
                return rng.randint(0, 120)
            case "float":
                return round(rng.random() * 10, 1)
            case "flag":
                return rng.random() < 0.6
            case "list":
                return self._some(rng.choice(list(f["list"].values())))
            case _:
                return self._nested(rng.choice(list(f["nest"])))

    def _odd(self) -> str:
        """A string in which sampling went astray: whatever it holds, a quote closes it."""
        words = [self.nonsense(), self.nonsense(), " the", "A "]
        parts = [*"}],:{[.", ", ", ": ", "4", "12", *words]
        return self.nonsense() + "".join(self.rng.choices(parts, k=self.rng.randint(0, 6))).strip()

    def _some(self, values: list[str | int]) -> list[Json]:
        return [*self.rng.sample(values, self.rng.randint(1, 3))]

    def _nested(self, key: str) -> dict[str, Json]:
        inner = self.fields["nest"][key]
        return {name: self._value(name) for name in inner[: self.rng.randint(2, len(inner))]}

    def _rows(self, key: str) -> list[Json]:
        inner = self.fields["rows"][key]
        if self.rng.random() < 0.2:
            inner = self._any_keys(2)
            return [{name: self._surprise() for name in inner} for _ in range(2)]
        return [{name: self._value(name) for name in inner} for _ in range(self.rng.randint(1, 3))]

    def _dump(self, value: Json) -> str:
        return json.dumps(value, separators=(",", ":") if self.rng.random() < 0.12 else None)

    # ---- tools ----

    def toolbox(self, used: Tool | None = None) -> tuple[Tool, list[Tool]]:
        """The tool that will be used, and some others beside it, under other names than its."""
        rng = self.rng
        if used is None:
            used = self._invent() if rng.random() < 0.25 else rng.choice(self.tools)
        rivals = [tool for tool in self.tools if tool.name != used.name]
        others = list(
            {t.name: t for t in rng.sample(rivals, rng.choice((0, 0, 1, 1, 2, 3)))}.values()
        )
        if rng.random() < 0.3:
            others.append(self._invent())
        return self._settled(used), [
            self._settled(tool) for tool in others if tool.name != used.name
        ]

    def shuffled(self, tools: list[Tool]) -> tuple[Tool, ...]:
        self.rng.shuffle(tools)
        return tuple(tools)

    def use(self, tool: Tool) -> tuple[str, dict[str, str]]:
        """A request that needs the tool, and the arguments to call it with."""
        values = {pool: self._pooled(pool) for pool in tool.args.values()}
        ask = re.sub(r"\{(\w+)\}", lambda found: values[found.group(1)], self.rng.choice(tool.ask))
        return ask, {name: values[pool] for name, pool in tool.args.items()}

    def outcome(self, tool: Tool, arguments: dict[str, str]) -> tuple[str, str]:
        """What the tool returns, and the sentence that says so."""
        values = {pool: arguments[name] for name, pool in tool.args.items()}
        for pool in ("number", "sky", "tenant"):
            values.setdefault(pool, self.rng.choice(self.pools[pool]))

        def fill(text: str) -> str:
            return re.sub(r"\{(\w+)\}", lambda found: values[found.group(1)], text)

        return fill(self.rng.choice(tool.result)), fill(tool.reply)

    @staticmethod
    def call(name: str, arguments: dict[str, str]) -> str:
        """The call in Hermes' notation, which vLLM's `hermes` parser reads."""
        body = f'{{"name": "{name}", "arguments": {json.dumps(arguments)}}}'
        return f"<tool_call>\n{body}\n</tool_call>"

    def _pooled(self, pool: str) -> str:
        """A value of the pool, or for places and people now and then one never seen before."""
        if pool in ("city", "person", "tenant", "query") and self.rng.random() < 0.06:
            return self.nonsense().capitalize()
        return self.rng.choice(self.pools[pool])

    def _settled(self, tool: Tool) -> Tool:
        """The tool with one of its alternative argument names chosen."""
        args = {self.rng.choice(name.split("|")): pool for name, pool in tool.args.items()}
        return replace(tool, args=args)

    def _invent(self) -> Tool:
        verb, noun = (
            self.rng.choice(self.invented["verbs"]),
            self.rng.choice(self.invented["nouns"]),
        )
        arg = self.rng.choice(self.invented["args"])
        pool = self.rng.choice(("number", "person", "tenant"))
        return Tool(
            name=f"{verb}_{noun}",
            description=f"{verb.capitalize()} a {noun}.",
            args={arg: pool},
            ask=(
                f"{verb.capitalize()} the {noun} {{{pool}}}.",
                f"Please {verb} {noun} {{{pool}}}.",
            ),
            result=("ok",),
            reply="Done.",
        )
