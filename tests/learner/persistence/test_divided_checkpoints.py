"""Checkpoints that several ranks write and read: the files of one process, whatever the number of ranks.

Both models are divided as the learner divides them. The embedding is tied and has 23 rows, and the value head one, so
that ranks hold different numbers of rows, and none of some parameters.
"""

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from learner.commands.export import export
from learner.models.loading.loading import policy_from_network
from learner.models.loading.named_tensors import stored_by_ranks, stored_tensors
from learner.models.passes.outputs import Policy
from learner.models.weights.master_weights import MasterWeights
from learner.networks import load_own_models
from learner.parallel.gathering import all_from_first, in_memory_of_first, own_rows, placed_like
from learner.parallel.group import ALONE, Group
from learner.parallel.process_counts import ProcessCounts
from learner.parallel.roles import TOGETHER, Roles
from learner.parallel.shard_files import stored, write_together
from learner.persistence import checkpoint
from learner.persistence.checkpoint import Checkpoints, capture
from learner.persistence.manifest import DamagedError, verify
from learner.persistence.network_folders import describe_network
from learner.rollouts.prompts import Prompt
from learner.state import new_trainer
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from learner.step.trainer_state import Describe, TrainerState, WrittenState, without_description
from learner.step.updates.optimization import Optimization
from tests.learner.builders import a_config, no_rollouts
from tests.support.damage import damage
from tests.support.ranks import in_group
from tests.support.small_disk import files_of_at_most
from tools.tiny_families import tiny_model
from tppo.config import Config
from tppo.rollout import tokens

CHAIN = (
    ProcessCounts(1),
    ProcessCounts(2),
    ProcessCounts(1),
    ProcessCounts(4),
    ProcessCounts(1, 1),
    ProcessCounts(2, 1),
    ProcessCounts(1),
)
"""How many ranks resume, one after the other; each takes one update further and commits.

The four have two replicas of the weights.
"""


SEEDS = {"actor": 0, "critic": 1}


class NoTokenizer:
    def save_pretrained(self, _folder: Path) -> None:
        pass


def config_of(folder: Path) -> Config:
    lengths = {"window_length": 16, "max_response_length": 16, "max_prompt_length": 8, "rollouts_per_step": 4}
    return a_config(
        run={"algorithm": "ppo-ewma", "mode": "lockstep", **lengths},
        model={"path": folder / "base"},
        learner={"device": "cpu", "compute_dtype": "float32"},
    )


def save_base(folder: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 23}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    network: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=True))
    network.save_pretrained(folder / "base")


class FirstToWrite(Trainer):
    """Lets the others write once it does, as the order of rank 0 does."""

    def write(self, state: TrainerState, folder: Path, describe: Describe = without_description) -> WrittenState:
        if self.roles.everyone.size > 1:
            torch.distributed.barrier()
        return super().write(state, folder, describe)


def trainer_of(folder: Path, roles: Roles, latest: Path | None) -> Trainer:
    models = load_own_models(config_of(folder), latest, roles)
    trainer = new_trainer(config_of(folder), *models, roles=roles)
    if latest is not None:
        trainer.load_state_dict(checkpoint.read_for(trainer, latest).trainer)
    return trainer


@torch.no_grad()
def update(trainer: Trainer, number: int) -> None:
    """By sums, whose bits are the same in every division; AdamW's depend on the length of what it is given."""
    for side in (trainer.policy_side, trainer.value_side):
        if side is not None:
            update_side(side.optimization, number, torch.Generator().manual_seed(10 * number + SEEDS[side.folder]))
    generator = torch.Generator().manual_seed(number)
    for average in trainer.system.state_dict().get("averages", {}).values():
        average.copy_(half_and(average, generator))


def update_side(optimization: Optimization, number: int, generator: torch.Generator) -> None:
    for parameter in optimization.adamw.param_groups[0]["params"]:
        state = optimization.adamw.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = half_and(state.get(name, torch.zeros_like(parameter)), generator)
        state["step"] = torch.tensor(float(number))
        parameter.copy_(half_and(parameter, generator))
    optimization.num_updates += 1


def half_and(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return 0.5 * tensor + placed_like(tensor, torch.randn(tensor.shape, generator=generator))


def commit(folder: Path, step: int, trainer: Trainer, *, is_limited: bool = False) -> str:
    """What rank 0 of the learner does, and what the others do meanwhile; the error, if any."""
    checkpoints = Checkpoints(folder, keep=10)
    state = capture(trainer, TrainingProgress(step, f"{step}-0", 0.0, 0), no_rollouts())
    with files_of_at_most(1024) if is_limited else nullcontext():
        if trainer.roles.everyone.rank == 0:
            try:
                trainer.__class__ = FirstToWrite
                checkpoints.commit(state, trainer, NoTokenizer())  # type: ignore[arg-type]
            except OSError as error:
                return str(error)
        else:
            torch.distributed.barrier()
            trainer.write(state.trainer, folder / f".global_step_{step}.writing", describe_network)
    return ""


def resume_update_commit(everyone: Group, folder: Path, step: int) -> None:
    latest, roles = folder / "checkpoints" / f"global_step_{step - 1}", Roles.together(everyone)
    if (counts := CHAIN[step - 1]).of_value_model:
        roles = Roles.apart(counts.of_policy, torch.device("cpu"))
    trainer = trainer_of(folder, roles, latest if step > 1 else None)
    update(trainer, step)
    assert commit(folder / "checkpoints", step, trainer) == ""


def resume_in_replicas(group: Group, folder: Path, step: int) -> Any:
    """As others resume; and what else ranks do together."""
    group = Group.joined(group.device, shard_size=2)
    resume_update_commit(group, folder, step)
    return publish(group), take_from_first(group), evaluate(group, folder)


def contents(checkpoint_folder: Path) -> dict[str, list[int]]:
    """Every tensor by its place, bit for bit."""
    return {
        f"{path.parent.relative_to(checkpoint_folder)}/{name}": bits(tensor)
        for path in checkpoint_folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


class Runs(NamedTuple):
    """The same updates, taken by one process and by changing numbers of them."""

    alone: Path
    divided: Path
    of_replicas: list[Any]  # what each of the four ranks has found besides

    def checkpoint(self, step: int) -> Path:
        return self.divided / "checkpoints" / f"global_step_{step}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("divided"), [])
    for folder in (made.alone, made.divided):
        save_base(folder)
    trainer = trainer_of(made.alone, TOGETHER, None)
    for step, counts in enumerate(CHAIN, 1):
        update(trainer, step)
        commit(made.alone / "checkpoints", step, trainer)
        if counts.total == 1:
            resume_update_commit(ALONE, made.divided, step)
        elif counts.total < 4:
            in_group(counts.total, resume_update_commit, made.divided, step)
        else:
            made.of_replicas.extend(in_group(counts.total, resume_in_replicas, made.divided, step))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, len(CHAIN) + 1))
def test_weights_and_moments_are_those_of_one_process_after_each_change_of_the_number_of_ranks(
    runs: Runs, step: int
) -> None:
    alone = contents(runs.alone / "checkpoints" / f"global_step_{step}")

    assert contents(runs.checkpoint(step)) == alone
    assert len(alone) > 100


def test_each_rank_has_written_a_share_and_the_digests_are_those_of_one_process(runs: Runs) -> None:
    alone, shared = (
        [json.loads(line) for line in (folder / "checkpoints" / "committed.jsonl").read_text().splitlines()]
        for folder in (runs.alone, runs.divided)
    )
    files = {path.name: path.stat().st_size for path in (runs.checkpoint(4) / "actor").glob("*.safetensors")}

    assert [ProcessCounts.of(note) for note in shared] == list(CHAIN)
    assert [
        {name: note[name] for name in of_one} | {"num_processes": 1} for note, of_one in zip(shared, alone, strict=True)
    ] == alone
    assert files.keys() == {f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)}
    assert max(files.values()) < 2 * min(files.values())


def test_ranks_of_two_replicas_publish_and_take_weights_as_those_of_one(runs: Runs) -> None:
    published, taken, evaluated = zip(*runs.of_replicas, strict=True)

    expected = {name: bits(tensor.bfloat16()) for name, tensor in a_policy().weights.tensors().items()}
    assert published == (expected, None, None, None)
    assert all(taken)
    assert evaluated[0] == evaluated[1] == evaluated[2] == evaluated[3]
    for ours, theirs in zip(evaluated[0], evaluate(ALONE, runs.divided), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_processes_of_each_model_write_its_files_and_its_moments(runs: Runs) -> None:
    folder = runs.checkpoint(6)

    assert {path.name for path in folder.glob("*.safetensors")} == {
        "trainer-00001-of-00002.safetensors",
        "trainer-00002-of-00002.safetensors",
        "trainer-critic.safetensors",
        "ledger.safetensors",
    }
    assert {path.name for path in (folder / "critic").glob("*.safetensors")} == {"model.safetensors"}
    assert len(list((folder / "actor").glob("model-*.safetensors"))) == 2
    verify(folder)


def test_an_export_of_a_checkpoint_of_four_ranks_is_an_ordinary_folder(runs: Runs, tmp_path: Path) -> None:
    export(runs.checkpoint(4), "policy", tmp_path / "exported")

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", use_safetensors=True)
    expected = AutoModelForCausalLM.from_pretrained(runs.alone / "checkpoints" / "global_step_4" / "actor")
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits, expected(ids).logits)


@pytest.mark.parametrize("name", ["actor/model-00003-of-00004.safetensors", "trainer-00002-of-00004.safetensors"])
@pytest.mark.parametrize("kind", ["torn", "flipped", "missing"])
def test_a_damaged_or_missing_part_is_found_and_the_checkpoint_before_is_used(
    runs: Runs, tmp_path: Path, name: str, kind: str
) -> None:
    folder = tmp_path / "checkpoints"
    for step in (3, 4):
        shutil.copytree(runs.checkpoint(step), folder / f"global_step_{step}")
    (folder / "latest").write_text("global_step_4")
    path = folder / "global_step_4" / name
    if kind == "missing":
        path.unlink()
    else:
        damage(path, kind)

    with pytest.raises(DamagedError, match=path.name):
        verify(folder / "global_step_4")
    assert Checkpoints(folder, keep=10).usable() == folder / "global_step_3"


# What else ranks do together, in one group of three


def a_policy(group: Group = ALONE, *, dtype: torch.dtype = torch.float32) -> Policy:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 23}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    network: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=True))
    return policy_from_network(network.eval(), compute_dtype=dtype, group=group)


def fail_to_commit(group: Group, folder: Path) -> list[str]:
    """With a full disk at rank 1 in the second of three attempts."""
    save = folder / "checkpoints"
    trainer = trainer_of(folder, Roles.together(group), None)
    return [commit(save, step, trainer, is_limited=step == 2 and group.rank == 1) for step in (1, 2, 3)]


def publish(group: Group) -> dict[str, list[int]] | None:
    """In the type that the policy computes in, and not in that of its masters."""
    file = in_memory_of_first(a_policy(group, dtype=torch.bfloat16).weights.computed(), group, nonce="nonce")
    return None if file is None else {name: bits(tensor) for name, tensor in file.tensors().items()}


def take_from_first(group: Group) -> bool:
    """Weights that rank 0 alone has become those of all; one of them is not divided."""
    like = {name: tensor for name, (tensor, _) in a_policy(group).weights.computed().items()}
    like["plain"] = torch.zeros(3, dtype=torch.int64)
    other = {name: tensor + 1 for name, tensor in a_policy().weights.tensors().items()} | {"plain": torch.arange(3)}

    taken = all_from_first(other if group.rank == 0 else {}, like, group)

    return all(
        torch.equal(own_rows(tensor), own_rows(placed_like(like[name], other[name]))) for name, tensor in taken.items()
    )


def evaluate(group: Group, folder: Path) -> list[list[float]]:
    """What the present weights say, what others say that rank 0 alone has, and what the present ones say again."""
    trainer = trainer_of(folder, Roles.together(group), None)
    weights = {name: 2.0 * tensor for name, tensor in a_policy().weights.tensors().items()} if group.rank == 0 else {}
    prompt = Prompt(0, "0", tokens([3]), "task", "answer", "{}", solution=tokens([4, 5]))
    found = []
    for others in (None, weights, None):
        probe = trainer.probe(others)
        found.append([number for of_row in probe.logprobs for number in of_row])
        found.append(trainer.solution_probabilities([prompt], temperature=1.0, weights=others))
    return found


def write_experts(group: Group, folder: Path) -> None:
    network = tiny_model("qwen3_moe")
    fully_shard(network, mesh=group.mesh)
    tensors = MasterWeights(network, dict(network.named_parameters())).tensors()
    write_together(folder / "experts", {"model": stored_by_ranks(network, tensors)}, group)


def together(group: Group, folder: Path) -> tuple[list[str], dict[str, list[int]] | None, bool, list[list[float]]]:
    write_experts(group, folder)
    return fail_to_commit(group, folder), publish(group), take_from_first(group), evaluate(group, folder)


class Found(NamedTuple):
    """By each rank."""

    folder: Path
    errors: list[list[str]]
    published: list[dict[str, list[int]] | None]
    taken: list[bool]
    evaluated: list[list[list[float]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("together")
    save_base(folder)
    errors, published, taken, evaluated = zip(*in_group(3, together, folder), strict=True)
    return Found(folder, list(errors), list(published), list(taken), list(evaluated))


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_rank_is_an_error_at_rank_0_and_harms_no_checkpoint(found: Found) -> None:
    (first, second, third), *_ = found.errors
    kept = found.folder / "checkpoints"

    assert second.startswith("rank 1: ")
    assert "large" in second
    assert (first, third) == ("", "")
    assert {path.name for path in kept.iterdir()} == {"global_step_1", "global_step_3", "latest", "committed.jsonl"}
    assert (kept / "latest").read_text() == "global_step_3"
    verify(kept / "global_step_3")


def test_rank_0_alone_has_what_generators_are_sent_and_it_is_the_cast_of_the_weights(found: Found) -> None:
    expected = {name: bits(tensor.bfloat16()) for name, tensor in a_policy().weights.tensors().items()}

    assert found.published == [expected, None, None]


def test_a_part_that_another_node_has_on_a_disk_of_its_own_is_an_error(tmp_path: Path) -> None:
    class OnAnotherNode(Group):
        """Two ranks, of which the other one reports a file that is not here."""

        def gathered(self, own: Tensor, lengths: Sequence[int]) -> list[Tensor]:
            report = {
                "files": {"model-00002-of-00002.safetensors": [7, "digest"]},
                "tensors": {"model": {}},
                "error": "",
            }
            data = torch.frombuffer(bytearray(json.dumps(report).encode()), dtype=torch.uint8)
            return [own, torch.tensor([len(data)]) if own.dtype == torch.int64 else data]

    tensors = stored({"a": torch.zeros(2), "b": torch.zeros(2)})

    written = write_together(tmp_path, {"model": tensors}, OnAnotherNode(rank=0, size=2))

    assert re.search("rank 1 has written 7 bytes .* expected a run's folder that all nodes share", written.error)


def test_weights_that_rank_0_has_come_to_every_rank(found: Found) -> None:
    assert found.taken == [True, True, True]


def test_deferred_weights_are_probed_and_evaluated_by_all_ranks_and_leave_the_policy_as_it_is(found: Found) -> None:
    expected = evaluate(ALONE, found.folder)

    assert found.evaluated[0] == found.evaluated[1] == found.evaluated[2]
    for ours, theirs in zip(found.evaluated[0], expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert found.evaluated[0][:2] == found.evaluated[0][4:]
    assert found.evaluated[0][0] != pytest.approx(found.evaluated[0][2], abs=1e-2)


def test_experts_that_ranks_hold_are_stored_one_by_one_as_they_were_published(found: Found) -> None:
    expected = {f"./{name}": bits(tensor) for name, tensor in stored_tensors(tiny_model("qwen3_moe")).items()}

    assert contents(found.folder / "experts") == expected
