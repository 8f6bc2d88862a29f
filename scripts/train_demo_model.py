#!/usr/bin/env python3
"""Trains the models that come with the package: demo, demo-small, demo-brief and demo-pirate.

The daemon must be able to show everything it does on a machine without a network, so it carries its
own models: two tiny Llamas that have learnt the questions and answers in `demo_corpus/` by heart,
and two LoRA adapters with plainly different voices. They share one tokeniser, so that a stream may
fall back from one base model to the other.

Everything is drawn from the seed and computed on two threads, so the same machine makes the same
weights again. The whole run takes about a quarter of an hour on two cores. Nothing is downloaded.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from demo_corpus.corpus import Corpus, Voice
from demo_corpus.samples import BASE_MIX, SMALL_MIX, VOICE_MIX, Mix, Sampler
from demo_corpus.tokens import CONTEXT_LEN_MAX, END, PAD, VOCAB_SIZE, batches, train_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DEFAULT_OUT = Path(__file__).parent.parent / "infer_daemon" / "demo" / "models"

LORA_RANK, LORA_ALPHA = 8, 16
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

#: The README's examples, asked at the end of each training.
PROBES = (
    "What is infer-daemon?",
    "How do I add a tenant?",
    "could you tell me how I add another tenant",
    "What does a 429 mean?",
    "why did I just get a 429",
    "Write a haiku about a queue.",
    "What is the capital of France?",
    "Count from 1 to 10.",
    "Repeat after me: fair engines never starve",
    "Give me a person as JSON with name and age",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One model to be trained. Adapters name the model they sit on and keep its shape."""

    name: str
    voice: Voice
    mix: Mix
    steps: int
    learning_rate: float
    hidden: int = 0
    layers: int = 0
    inner: int = 0
    heads: int = 0
    kv_heads: int = 0
    base: str = ""


RECIPES = (
    Recipe(name="demo", voice="plain", mix=BASE_MIX, steps=850, learning_rate=4e-3,
           hidden=256, layers=5, inner=640, heads=4, kv_heads=2),
    Recipe(name="demo-small", voice="plain", mix=SMALL_MIX, steps=900, learning_rate=5e-3,
           hidden=128, layers=4, inner=320, heads=4, kv_heads=2),
    Recipe(name="demo-brief", voice="brief", mix=VOICE_MIX, steps=150, learning_rate=1e-2,
           base="demo"),
    Recipe(name="demo-pirate", voice="pirate", mix=VOICE_MIX, steps=150, learning_rate=1e-2,
           base="demo"),
)  # fmt: skip

# ---- training ----


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A frozen linear layer with a trained low-rank addition, as PEFT defines it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.lora_a = nn.Parameter(torch.empty(LORA_RANK, inner.in_features))
        self.lora_b = nn.Parameter(torch.zeros(inner.out_features, LORA_RANK))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x @ self.lora_a.T @ self.lora_b.T * (LORA_ALPHA / LORA_RANK)
        return added + self.inner(x)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.hidden // recipe.heads,
        max_position_embeddings=CONTEXT_LEN_MAX,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).float()


def add_lora(model: LlamaForCausalLM) -> dict[str, LoraLinear]:
    """Freezes the model and wraps its projections; returns them by their name in the model."""
    model.requires_grad_(False)
    wrapped: dict[str, LoraLinear] = {}
    for path, module in list(model.named_modules()):
        parent, _, leaf = path.rpartition(".")
        if leaf in LORA_TARGETS and isinstance(module, nn.Linear):
            wrapped[path] = LoraLinear(module)
            setattr(model.get_submodule(parent), leaf, wrapped[path])
    return wrapped


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Momentum whose update is made orthogonal, for the matrices inside the layers.

    It reaches in a third of the time what AdamW reaches here. torch's own `Muon` computes in
    bfloat16, which a CPU without AMX does some twenty times slower than float32.
    """

    MOMENTUM = 0.95
    #: Newton-Schulz coefficients, one triple per iteration (a x + b x^3 + c x^5, "Polar Express").
    ITERATIONS = (
        (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012),
    )  # fmt: skip

    def __init__(self, matrices: list[nn.Parameter], lr: float) -> None:
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: object = None) -> None:
        assert closure is None, "the gradients are computed by the caller"
        (group,) = self.param_groups
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for p in group["params"]:
            state = self.state[p]
            momentum = state.setdefault("momentum", torch.zeros_like(p))
            momentum.mul_(self.MOMENTUM).add_(p.grad)
            wanted = p.grad.add(momentum, alpha=self.MOMENTUM)
            wide = wanted.T if p.shape[0] > p.shape[1] else wanted
            alike.setdefault(wide.shape, []).append((p, wide))
        for items in alike.values():
            x = torch.stack([wide for _, wide in items])
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for a, b, c in self.ITERATIONS:
                square = x @ x.mT
                x = a * x + (b * square + c * square @ square) @ x
            for (p, _), update in zip(items, x, strict=True):
                size = 0.2 * math.sqrt(max(p.shape))  # so that rates compare with AdamW's
                p.add_(update.T if p.shape[0] > p.shape[1] else update, alpha=-group["lr"] * size)


def loss_of(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean loss for training, and the plain mean over answers alone for reading.

    Padding sits at the right, where a causal model cannot see it, so no mask is needed.
    """
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    counted = weights[:, 1:] > 0
    logits = model.lm_head(hidden[counted])
    losses = functional.cross_entropy(logits, ids[:, 1:][counted], reduction="none")
    weight = weights[:, 1:][counted]
    answers = losses.detach()[weight == 1.0].mean()
    return (losses * weight).sum() / weight.sum(), answers


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inner = [p for name, p in trained.items() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in trained.items() if p.ndim != 2 or "embed" in name]
    made: list[torch.optim.Optimizer] = [Muon(inner, lr=rate)]
    if outer:
        made.append(torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.0))
    return made


def train(model: LlamaForCausalLM, recipe: Recipe, source: Iterator[tuple[Tensor, Tensor]]) -> None:
    """A fixed number of steps: short warm-up, a plateau, then a linear way down."""
    optimizing = optimizers(model, recipe.learning_rate)
    started, seen, mean = time.monotonic(), 0, 0.0
    model.train()
    for step in range(recipe.steps):
        done = step / recipe.steps
        rate = recipe.learning_rate * min((step + 1) / 20, 1.0, max(0.02, (1 - done) / 0.6))
        ids, weights = next(source)
        loss, answers = loss_of(model, ids, weights)
        loss.backward()
        for optimizer in optimizing:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        mean = answers.item() if step == 0 else 0.95 * mean + 0.05 * answers.item()
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            spent = time.monotonic() - started
            print(f"{recipe.name}: step {step + 1}/{recipe.steps}  answer loss {mean:.3f}  "
                  f"{seen / spent:,.0f} tokens/s  {spent:.0f} s", flush=True)  # fmt: skip


# ---- saving and testing ----


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes config, weights and tokeniser: all that an engine needs of a base model."""
    model.to(torch.bfloat16).save_pretrained(folder)
    # A low temperature keeps a tiny model readable when a request does not say otherwise.
    end = tokenizer.eos_token_id
    _write_json(
        folder / "generation_config.json",
        {"do_sample": True, "eos_token_id": end, "temperature": 0.3, "top_p": 0.9},
    )
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": CONTEXT_LEN_MAX,
        "clean_up_tokenization_spaces": False,
        "chat_template": tokenizer.chat_template,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def save_lora(wrapped: dict[str, LoraLinear], folder: Path) -> None:
    """Writes the adapter as PEFT would, so that vLLM reads it."""
    tensors: dict[str, Tensor] = {}
    for path, layer in wrapped.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = layer.lora_a.detach().bfloat16()
        tensors[f"base_model.model.{path}.lora_B.weight"] = layer.lora_b.detach().bfloat16()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "demo",
        "r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": list(LORA_TARGETS),
    }
    _write_json(folder / "adapter_config.json", settings)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


@torch.no_grad()  # type: ignore[untyped-decorator]
def report(
    model: LlamaForCausalLM, sampler: Sampler, tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    """Loss on fresh samples and answers to the README's questions, from the rounded weights."""
    model.float().eval()
    source = batches(sampler, tokenizer)
    losses = [loss_of(model, *next(source))[1].item() for _ in range(20)]
    print(f"\n{name}: answer loss on fresh samples {sum(losses) / len(losses):.3f}")
    for probe in PROBES:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": probe}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, return_tensors="pt").input_ids
        size = ids.shape[1]
        ids = model.generate(
            ids, max_new_tokens=100, do_sample=False, eos_token_id=tokenizer.eos_token_id
        )
        print(f"  {probe}\n    -> {tokenizer.decode(ids[0, size:], skip_special_tokens=True)}")
    print(flush=True)


def _open_to_all(folder: Path) -> None:
    """safetensors files are made for their owner alone; package data is for everyone to read."""
    for file in folder.iterdir():
        file.chmod(0o644)


def make(
    recipe: Recipe, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, out: Path, seed: int
) -> None:
    """Trains and saves one model or adapter. Adapters read their base from `out`."""
    torch.manual_seed(seed)
    sampler = Sampler(
        corpus, random.Random(f"{seed} {recipe.name}"), voice=recipe.voice, mix=recipe.mix
    )
    fresh = Sampler(
        corpus, random.Random(f"{seed} {recipe.name} fresh"), voice=recipe.voice, mix=recipe.mix
    )
    if recipe.base:
        model = LlamaForCausalLM.from_pretrained(out / recipe.base, dtype=torch.float32)
        wrapped = add_lora(model)
        train(model, recipe, batches(sampler, tokenizer))
        save_lora(wrapped, out / recipe.name)
    else:
        model = new_model(recipe, tokenizer)
        print(f"{recipe.name}: {model.num_parameters():,} parameters")
        train(model, recipe, batches(sampler, tokenizer))
        save_base(model, tokenizer, out / recipe.name)
    _open_to_all(out / recipe.name)
    report(model, fresh, tokenizer, recipe.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for the four models")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--only", choices=[r.name for r in RECIPES], action="append", help="may be repeated"
    )
    parser.add_argument(
        "--effort", type=float, default=1.0, help="share of the training steps, for trials"
    )
    args = parser.parse_args()

    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    corpus = Corpus.load()
    tokenizer = train_tokenizer(corpus, args.seed)
    for recipe in RECIPES:
        if not args.only or recipe.name in args.only:
            steps = max(1, round(recipe.steps * args.effort))
            make(replace(recipe, steps=steps), corpus, tokenizer, args.out, args.seed)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"done in {time.monotonic() - started:.0f} s, {size / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
