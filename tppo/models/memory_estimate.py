"""How much memory the learner and a generator take, by arithmetic: before anything is loaded.

A model has P parameters, L blocks of width H, MLPs of width I (of those experts that a token goes through), queries of
width A and keys of width K (heads x head_dim each), and a vocabulary of V; a number of the type that it computes in
takes e bytes; a micro-batch has T tokens, c of them in a chunk of logits.

    weights      4 P, and in bfloat16 2 P for the cast of the masters
    moments      8 P
    gradients    4 P, of one model at a time
    activations  off        T L (e (4 I + 3 A + 2 K) + n H), n = 24 in float32 and 16 in bfloat16
                 selective  T L e (2 I + 2 A + 2 K + 3 H), and one block of `off`
                 full       T L e H, and one block of `off`
                 on the fast path (float32, a CPU, blocks of up to 2^20 parameters, `off`)
                            also 4 L min(2^20, heads T^2 / 2), the probabilities of attention
    logits       12 T V where they are few; else 8 c V, and the 4 V H of the head's gradient
    KV cache     2 L K e for each token of each slot

N processes of the learner share weights, moments and gradients (of one replica, where there are several). Each gathers
what it computes with: of P, the embedding and an untied head are R and a block is B = (P - R) / L.

    weights      4 P / N; moments 8 P / N; gradients 4 P / N
    gathered     e (R + 2 B), and (e + 4) max(R, B) of gradients on their way to their processes

S of them share the tokens of a micro-batch: activations and logits are those of T / S tokens.

With LoRA the body is frozen, in the type that it computes in, and adapters of a parameters are on every process:

    weights      e P / N + 4 a; of two models on one body: e P once; moments 8 a; gradients 4 a
    activations  in bfloat16 `off` also T L 4 (5 H + A + I), the float32 inputs of adapters
                 `selective` also T L 4 (A + 2 K + 2 H + 2 I), their products

A gated MLP keeps its two products, the activation and their product; attention its queries, keys, values and output; a
norm its input twice, in float32. Families differ in this by a fifth or so. The rest of a step (ids, masks, values) is
some hundred bytes a token, and a process without a model takes `PROCESS_BYTES`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

MEBIBYTE = 2**20
PROCESS_BYTES = 400 * MEBIBYTE
"""Python, torch and transformers."""
MAX_LOGITS_KEPT = 2**24
"""Logits of a micro-batch that are kept for the backward pass instead of being computed again: 64 MiB in float32."""
MAX_LOGITS_ON_CPU = 2**26
"""Logits of a chunk, 256 MiB in float32; not by the machine's memory, so that a replay on another one finds the same
weights."""
MAX_PROBABILITIES_KEPT = 2**20
"""Of attention in one block, for the backward pass of the learner's fast path: 4 MiB."""
MAX_BLOCK_OF_FAST_PATH = 2**20
"""Parameters of a block."""
SHARE_OF_DEVICE = 1 / 64
"""Of an accelerator's memory, that a chunk's float32 logits may take; a backward pass holds them twice."""
FLOAT32_BYTES = 4

Checkpointing = Literal["off", "selective", "full"]


def logits_per_chunk(device_bytes: int | None) -> int:
    """Logits that are computed at once, on a device with so much memory; None: the CPU."""
    if device_bytes is None:
        return MAX_LOGITS_ON_CPU
    return max(MAX_LOGITS_ON_CPU, int(device_bytes * SHARE_OF_DEVICE) // FLOAT32_BYTES)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the formulas ask of a model."""

    num_parameters: int
    num_blocks: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    has_tied_head: bool = False
    heads: int = 1

    @classmethod
    def of(cls, config: Any, num_parameters: int) -> "ModelShape":
        """Of a configuration of transformers, whatever its family calls these numbers."""
        text = config.get_text_config()
        heads, hidden = getattr(text, "num_attention_heads", None) or 1, text.hidden_size
        head_dim = getattr(text, "head_dim", None) or hidden // heads
        return cls(
            num_parameters=num_parameters,
            num_blocks=text.num_hidden_layers,
            hidden=hidden,
            intermediate=_intermediate(text),
            queries=heads * head_dim,
            keys=(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
            vocabulary=text.vocab_size,
            has_tied_head=bool(getattr(text, "tie_word_embeddings", False)),
            heads=heads,
        )

    def body(self) -> "ModelShape":
        """Without the head that gives logits, as the value model made from a policy."""
        of_head = 0 if self.has_tied_head else self.vocabulary * self.hidden
        return replace(self, num_parameters=self.num_parameters - of_head, has_tied_head=True)

    @property
    def outside_blocks(self) -> int:
        """Parameters of the embedding, and of the head where it is not the embedding."""
        return min(self.num_parameters, self.vocabulary * self.hidden * (1 if self.has_tied_head else 2))

    @property
    def of_a_block(self) -> int:
        """Parameters of one block."""
        return (self.num_parameters - self.outside_blocks) // max(1, self.num_blocks)


def _intermediate(text: Any) -> int:
    """Of all experts that a token goes through."""
    num_experts = getattr(text, "num_experts_per_tok", None)
    dense = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
    if not num_experts:
        return int(dense)
    return int(num_experts) * int(getattr(text, "moe_intermediate_size", None) or dense)


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained."""

    compute_bytes: int  # of a number: 4 or 2
    num_tokens: int  # of a micro-batch
    checkpointing: Checkpointing
    device_bytes: int | None = None  # of an accelerator
    num_processes: int = 1  # that share the model
    sequence_size: int = 1  # of them share a micro-batch
    num_adapted: int | None = None  # parameters of adapters, beside a frozen body; None: all weights train
    has_own_body: bool = True  # beside adapters; or it stands on that of another model

    @property
    def own_tokens(self) -> int:
        """Of a micro-batch, those of one process."""
        return -(-self.num_tokens // self.sequence_size)

    def share(self, size: int) -> int:
        """Of one process."""
        return -(-size // self.num_processes)


def resident_bytes(shape: ModelShape, training: Training) -> dict[str, int]:
    """Of a model that is being trained, in every phase of a step."""
    e, size, adapted = training.compute_bytes, shape.num_parameters, training.num_adapted
    if adapted is not None:
        of_body = training.share(e * size) if training.has_own_body else 0
        return {"weights": of_body + FLOAT32_BYTES * adapted, "moments": 8 * adapted}
    has_cast = e != FLOAT32_BYTES and training.num_processes == 1
    return {
        "weights": training.share((FLOAT32_BYTES + (e if has_cast else 0)) * size),
        "moments": training.share(8 * size),
    }


def update_bytes(shape: ModelShape, training: Training, *, has_logits: bool) -> dict[str, int]:
    """On top of that, while the model is updated."""
    adapted = training.num_adapted
    of_weights = training.share(FLOAT32_BYTES * shape.num_parameters)
    parts = {"gradients": of_weights if adapted is None else FLOAT32_BYTES * adapted}
    if training.num_processes > 1:
        parts["gathered"] = gathered_bytes(shape, training)
    parts["activations"] = activation_bytes(shape, training)
    return parts | ({"logits": logits_bytes(shape, training)} if has_logits else {})


def gathered_bytes(shape: ModelShape, training: Training) -> int:
    """What a process holds of the others' parts while it computes."""
    e, outside, block = training.compute_bytes, shape.outside_blocks, shape.of_a_block
    of_gradients = (e + FLOAT32_BYTES) * max(outside, block) if training.num_adapted is None else 0
    return e * (outside + 2 * block) + of_gradients


def activation_bytes(shape: ModelShape, training: Training) -> int:
    """What is kept for the backward pass of a micro-batch."""
    e, hidden = training.compute_bytes, shape.hidden
    of_norms = 24 if e == FLOAT32_BYTES else 16
    block = e * (4 * shape.intermediate + 3 * shape.queries + 2 * shape.keys) + of_norms * hidden
    kept_again = e * (2 * shape.intermediate + 2 * shape.queries + 2 * shape.keys + 3 * hidden)
    if training.num_adapted is not None:
        inputs, outputs = adapted_widths(shape)
        block += 0 if e == FLOAT32_BYTES else FLOAT32_BYTES * inputs
        kept_again += FLOAT32_BYTES * outputs
    per_token = {
        "off": shape.num_blocks * block,
        "selective": shape.num_blocks * kept_again + block,
        "full": shape.num_blocks * e * hidden + block,
    }
    return training.own_tokens * per_token[training.checkpointing] + _probabilities_bytes(shape, training)


def _probabilities_bytes(shape: ModelShape, training: Training) -> int:
    """Of the fast path, where a model is small enough for it; families that do not take it have none."""
    is_plain = training.checkpointing == "off" and training.num_adapted is None and training.num_processes == 1
    is_on_cpu = training.compute_bytes == FLOAT32_BYTES and training.device_bytes is None
    if not (is_plain and is_on_cpu and shape.of_a_block <= MAX_BLOCK_OF_FAST_PATH):
        return 0
    kept = min(MAX_PROBABILITIES_KEPT, shape.heads * training.num_tokens**2 // 2)
    return FLOAT32_BYTES * shape.num_blocks * kept


def adapted_widths(shape: ModelShape) -> tuple[int, int]:
    """Inputs and outputs of all linear layers of a block, for one token."""
    queries, keys, hidden, intermediate = shape.queries, shape.keys, shape.hidden, shape.intermediate
    return 5 * hidden + queries + intermediate, queries + 2 * keys + 2 * hidden + 2 * intermediate


def logits_bytes(shape: ModelShape, training: Training) -> int:
    """Of a chunk, forward and backward."""
    num_logits = training.own_tokens * shape.vocabulary
    if num_logits <= MAX_LOGITS_KEPT:
        return 3 * FLOAT32_BYTES * num_logits
    chunk = min(num_logits, logits_per_chunk(training.device_bytes))
    return FLOAT32_BYTES * (2 * chunk + shape.vocabulary * shape.hidden)


def generator_bytes(shape: ModelShape, *, compute_bytes: int, num_slots: int, num_tokens: int) -> dict[str, int]:
    """Of a generator; `num_tokens` of prompt and response at most."""
    return {
        "weights": compute_bytes * shape.num_parameters,
        "weights that arrive": compute_bytes * shape.num_parameters,
        "KV cache": 2 * shape.num_blocks * shape.keys * compute_bytes * num_slots * num_tokens,
        "logits": 3 * FLOAT32_BYTES * num_slots * shape.vocabulary,
    }
