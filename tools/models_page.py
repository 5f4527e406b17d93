"""Writes docs/models.md: `python -m tools.models_page` holds each tiny family against the probe, in about a minute."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from learner.models.loading.agreement import plain_attention, require_agreement
from learner.models.loading.inspection import require_trainable, require_whole_weights
from learner.models.loading.loading import policy_from_network
from services.generation.build import make_decoder
from services.generation.transformers_engine.decoders.general import GeneralDecoder
from services.generation.transformers_engine.decoders.model_weights import named_weights
from services.generation.transformers_engine.decoders.proof import decoded_logprobs
from tools.tiny_families import FAMILIES, Family, tiny_config, tiny_model
from tppo.config import ConfigError
from tppo.config.schema import ModelSection
from tppo.models.probe import COMMON_SIZE, TOLERANCES, ProbeError, difference, plain_logprobs, rows_for

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
CAPACITY = 100
CPU = torch.device("cpu")
REFUSED: Mapping[str, dict[str, Any]] = {
    "bert": {"model_type": "bert"},
    "t5": {"model_type": "t5"},
    "a quantized model": {"model_type": "llama", "quantization_config": {"quant_method": "awq", "bits": 4}},
    "pickled weights without safetensors": {"model_type": "llama"},
}


class Compared(NamedTuple):
    """A family in one type; `learner` and `engine` say how its rows run."""

    learner: str
    engine: str
    worst: float  # nats


class Row(NamedTuple):
    """Of the table."""

    family: str
    parts: str
    in_float32: Compared
    in_bfloat16: Compared | None  # None: transformers' own forward pass fails in it

    def __str__(self) -> str:
        rounded = "refused" if self.in_bfloat16 is None else f"{self.in_bfloat16.worst:.2f}"
        learner, engine, worst = self.in_float32
        return f"| {self.family} | {self.parts} | {learner} | {engine} | {worst:.0e} | {rounded} |"


def measured(name: str, family: Family) -> Row:
    """By the probe."""
    try:
        in_bfloat16 = compared(name, torch.bfloat16)
    except ProbeError:
        in_bfloat16 = None
    return Row(name, family.parts, compared(name, torch.float32), in_bfloat16)


def compared(name: str, dtype: torch.dtype) -> Compared:
    """Learner and engine with the plain forward pass of the learner's network. Raises `ProbeError`."""
    policy = policy_from_network(tiny_model(name), compute_dtype=dtype)
    apart = require_agreement(policy)
    rows = rows_for(policy.network, capacity=CAPACITY)
    with plain_attention(policy.network):
        expected = plain_logprobs(policy.network, rows)
    decoder: Any = make_decoder(tiny_config(name), num_slots=4, capacity=CAPACITY, dtype=dtype, device=CPU)
    with torch.inference_mode():
        decoder.prepare({key: tensor.detach().clone() for key, tensor in named_weights(policy.network).items()})()
        found = decoded_logprobs(decoder, rows, num_slots=4, device=CPU)
    layout = decoder.layout if isinstance(decoder, GeneralDecoder) else None
    engine = "fast path" if layout is None else layout.name.lower()
    worst = max(difference(found, expected).worst, apart.worst)
    return Compared("packed" if policy.packs_rows else "alone", engine, worst)


def refusals() -> Iterator[tuple[str, str]]:
    """(what, the sentence), of the preflight."""
    for what, config in REFUSED.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
            (path / "pytorch_model.bin").touch()
            try:
                require_trainable(ModelSection(path=path))
                require_whole_weights(ModelSection(path=path))
            except ConfigError as error:
                yield what, str(error).replace(folder, "MODEL")


def page() -> str:
    """The document."""
    tolerances = "\n".join(
        f"| {str(dtype).removeprefix('torch.')} | {tolerance.worst:g} | {tolerance.mean:g} |"
        for dtype, tolerance in TOLERANCES.items()
    )
    return TEXT.format(
        version=transformers.__version__,
        tolerances=tolerances,
        common_size=COMMON_SIZE,
        families="\n".join(str(measured(name, family)) for name, family in FAMILIES.items()),
        refused="\n".join(f"| {what} | {sentence} |" for what, sentence in refusals()),
        border="`rope_type` `longrope` or `dynamic`, where prompt and response may grow beyond where it changes",
        border_sentence="... has rope_type 'longrope', which turns all tokens of a row otherwise once it is longer "
        "than 4096, so that their log-probabilities change after they were sampled; expected at most 4096",
        critic="a critic that is a causal language model, or has another vocabulary, tokenizer or number of labels",
        critic_sentence="model.critic_path = 'CRITIC' holds a causal language model (LlamaForCausalLM), which has no "
        "value head; expected a critic, or leave model.critic_path unset to begin with the policy's body and a head of "
        "zeros",
    )


TEXT = """# Models

Any causal language model that transformers knows can be trained, from a folder with `config.json`, safetensors and
tokenizer; a folder's own code is never run. This page is generated by `python -m tools.models_page` (transformers
{version}, tiny random models on a CPU).

## The probe

The learner packs rows into one line, and the generators decode with a KV cache, padded or not. What is right in one
family is wrong in another: windows, ALiBi, recurrent states and learned positions all depend on where a row stands. So
each process compares itself with transformers' plain forward pass, `model(input_ids)` of each row alone, on a few fixed
rows: short ones beside long ones, and one that reaches beyond the attention's window where the model can afford it. The
learner does so whenever it loads a policy, after a resume too, with rows packed and alone; a generator with the first
weights that it is sent, through its own decode path, with rows that join and leave. Beyond these tolerances, in nats of
the log-probability of a token, the process ends with the largest difference in its last line:

| computed in | worst token | mean |
|---|---|---|
{tolerances}

The tolerances of bfloat16 are measured: the families below, of two layers, differ by at most 0.20 (llama4_text) and in
the mean by 0.017 (zamba2), SmolLM2-135M with its 30 layers and log-probabilities down to -24 by 0.18 and 0.05, and
Gemma 3 270M, whose logits go up to 180 and log-probabilities down to -36, by 0.78 and 0.11. Rounding errors grow with
the numbers that are rounded: where log-probabilities are larger than {common_size:g} nats in the mean, as Gemma's 17
are, the tolerances grow in proportion. A cache that is wrong shows in the mean: 0.22 for rwkv and 0.31 for
recurrent_gemma, whose log-probabilities are near 5; they are therefore decoded in another way.

A decoder of a later version of transformers, or of a family that nobody tried, is therefore proven before its first
token. The code is `tppo/models/probe.py` (the rows, the plain pass, the comparison),
`learner/models/loading/agreement.py` and `services/generation/transformers_engine/decoders/proof.py`.

## How a family runs

* **Learner.** *packed*: several rows stand in one line and attend to themselves alone. *alone*: each row has a
  forward pass of its own, as the family's code mixes tokens outside its attention, or has an attention of its own.
* **Generator.** *fast path*: the engine's own decoder. *together*: rows share a KV cache and each forward pass, with
  sliding windows and recurrent states too; prefixes are prefilled padded on the left. *joined*: the same, but prefixes
  of one length are prefilled together, without padding. Both prefill a row with a sliding window in parts of 512
  tokens, so that no mask is as large as its square. *stacked*: rows share each decode step, on states of a kind of the
  family's own. *alone*: a KV cache and a forward pass for each row.
  *uncached*: no cache of the family gave the right numbers, so each token takes a pass over its whole row; right, slow,
  and said in the log. Three families are slow by this: rwkv runs alone, as transformers' decode step mixes its rows,
  and recurrent_gemma and minimax uncached, as what transformers caches for them gives other numbers. See
  [decision 25](decisions/0025-rows-of-any-family-decode-together.md).
* **Critic.** A scalar head on the body of the same family; see
  [decision 3](decisions/0003-the-value-model-is-a-scalar-head-on-the-body.md).
* **Mixtures of experts** train without expert parallelism and without random routing. The loss that evens out their
  routers is off unless `actor.router_aux_loss_coef` says otherwise: it is transformers', of each layer and row by
  itself, in float32, so that micro-batches change nothing, and acts on the policy alone. Families that transformers has
  no such loss for (of those below glm4_moe, deepseek_v2, deepseek_v3 and llama4_text) refuse the key.
* **Stop tokens** are those of `generation_config.json`, `config.json` and the tokenizer together.

The worst difference of learner and generator, in nats, in both types; *refused*: transformers' own forward pass fails.

| family | special parts | learner | generator | float32 | bfloat16 |
|---|---|---|---|---|---|
{families}

## What is refused

Before anything starts, from `config.json` and the headers of the weights' files:

| what | sentence |
|---|---|
{refused}
| {border} | {border_sentence} |
| {critic} | {critic_sentence} |
| weights that are not there, or cut short | model.path = 'MODEL': MODEL/model.safetensors.index.json names 1 of 2 \
files that are not there, model-00002-of-00002.safetensors; expected all of them |

When the weights are read: tensors that are missing, surplus, of another shape or not finite, with the file and the
first of them.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
