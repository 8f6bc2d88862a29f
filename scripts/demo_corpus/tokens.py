"""From samples to tensors: the tokeniser, the weight of each token in the loss, and batches."""

import random
from collections.abc import Iterator

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo_corpus.corpus import Corpus, Voice
from demo_corpus.samples import BASE_MIX, Sample, Sampler

VOCAB_SIZE = 2048
CONTEXT_LEN_MAX = 4096
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
#: Words, short numbers and single signs: no token spans two pieces of JSON punctuation, so whatever
#: a grammar allows next is a token that the model has seen in that place. A number is mostly one
#: token, after which nothing tempts the model into another digit.
PIECES = r" ?\p{L}+| ?\p{N}{1,4}| ?[^\s\p{L}\p{N}]|\s+"

#: What the model did not say itself (questions, instructions) is learnt too, but only faintly: it
#: keeps text readable where generation is forced to go on behind the end of an answer.
PROMPT_WEIGHT = 0.1


def train_tokenizer(corpus: Corpus, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE on the corpus: every byte has a token, so any text can be read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 2,  # the tool call marks come on top, as ordinary text
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_text(corpus, seed), trainer)
    tokenizer.add_tokens([CALL, CALL_END])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=corpus.chat_template,
        model_max_length=CONTEXT_LEN_MAX,
        clean_up_tokenization_spaces=False,
    )


def _tokenizer_text(corpus: Corpus, seed: int) -> Iterator[str]:
    # Names are copied from a sentence (" Paris") into JSON ("Paris"): both are to be whole tokens.
    for value in (value for values in corpus.pools.values() for value in values):
        yield from (value, f" {value}") * 20
    voices: tuple[Voice, ...] = ("plain", "brief", "pirate")
    for voice in voices:
        sampler = Sampler(corpus, random.Random(seed), voice=voice, mix=BASE_MIX)
        for _ in range(1500 if voice == "plain" else 500):
            sample = sampler.draw()
            yield sample.prose
            yield from (text for _, text in sample.messages)
            yield from (f"{t.name}({','.join(t.args)}): {t.description}" for t in sample.tools)


def encode(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[float]]:
    """Token ids and how much each counts in the loss: answers fully, the rest faintly."""
    if sample.prose:
        ids = [*tokenizer.encode(sample.prose), tokenizer.eos_token_id]
        return ids, [1.0] * len(ids)
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in sample.messages],
        tools=[_tool_spec(t.name, t.description, list(t.args)) for t in sample.tools] or None,
        tokenize=False,
    )
    ids = tokenizer.encode(text)
    start, end = tokenizer.convert_tokens_to_ids([START, END])
    answer = [start, *tokenizer.encode("assistant\n")]
    weights = [PROMPT_WEIGHT] * len(ids)
    speaking = False
    for i in range(len(ids)):
        if ids[i - len(answer) : i] == answer:
            speaking = True
            weights[i] = 0.0 if sample.forced_start else 1.0
        elif speaking:
            weights[i] = 1.0
            speaking = ids[i] != end
    return ids, weights


def _tool_spec(name: str, description: str, args: list[str]) -> dict[str, object]:
    properties = {arg: {"type": "string"} for arg in args}
    function = {
        "name": name,
        "description": description,
        "parameters": {"type": "object", "properties": properties, "required": args},
    }
    return {"type": "function", "function": function}


def batches(
    sampler: Sampler, tokenizer: PreTrainedTokenizerFast, *, tokens_per_batch: int = 2048
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of texts of about equal length, so that little of a batch is padding.

    One text per row, from position 0, as the model will see it in use.
    """
    while True:
        pool = sorted(
            (encode(sampler.draw(), tokenizer) for _ in range(1000)), key=lambda s: len(s[0])
        )
        made: list[list[tuple[list[int], list[float]]]] = [[]]
        for item in pool:
            if len(item[0]) * (len(made[-1]) + 1) > tokens_per_batch and made[-1]:
                made.append([])
            made[-1].append(item)
        sampler.rng.shuffle(made)
        for rows in made:
            longest = max(len(ids) for ids, _ in rows)
            ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id or 0))
            weights = torch.zeros(len(rows), longest)
            for i, (row, row_weights) in enumerate(rows):
                ids[i, : len(row)] = torch.tensor(row)
                weights[i, : len(row)] = torch.tensor(row_weights)
            yield ids, weights
