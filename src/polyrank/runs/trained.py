"""What somebody trained, by its folder: a run, an adapter of ours or of plain PEFT, or a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, ConfigError, DataError, RunFolderError
from polyrank.data.turns import Turn
from polyrank.federation.loading import device
from polyrank.hf import whose
from polyrank.hf.load import load_base
from polyrank.hf.peft import folder as peft_folder
from polyrank.hf.peft.folder import Target
from polyrank.hf.peft.patterns import exact_targets
from polyrank.hf.peft.shared import OURS, what_is_missing
from polyrank.hf.resident import ResidentModel
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder
from polyrank.runs.models import model_of
from polyrank.runs.resume import check_model
from polyrank.tasks import Task, registry


@dataclass(frozen=True, eq=False)
class Trained:
    """A base, and what was learned over it.

    Args:
        path: its folder.
        target: the base, names of what its head gives, and the task.
        adapter: None where the model is whole.
        base_change: a frozen update beside the adapter, as a run may have it.
        run: where it is a run.
        round: of the run, after which it is taken.
    """

    path: Path
    target: Target
    adapter: Adapter | None
    base_change: Adapter | None = None
    run: RunFolder | None = None
    round: int = 0

    @property
    def task(self) -> Task:
        """What was learned, with its options."""
        return registry.TASKS.build(self.target.task, self.target.options)

    @property
    def words(self) -> str:
        """What it is, in a sentence."""
        if self.run:
            return f"{self.path} after round {self.round}"
        return f"{self.path}, {'an adapter' if self.adapter else 'a model'} of {self.target.task}"

    def check_writes(self, otherwise: str) -> None:
        """Refuse a model that does not write.

        Args:
            otherwise: what to do instead.

        Raises:
            ConfigError: the task is another.
        """
        if not self.task.writes:
            raise ConfigError(f"{self.path} was trained for {self.target.task}, and does not write; {otherwise}")

    def resident(self) -> ResidentModel:
        """The base with all that was learned installed, in the precision of the run, or else what suits the machine.

        Raises:
            ModelError: the base cannot be loaded.
            AdapterError: the adapter is of another base.
        """
        model, attention = self.target.model, None
        dtype = torch.bfloat16 if device().type == "cuda" else torch.float32
        if self.run:
            training = self.run.read_config().training
            attention = None if training.attention == "auto" else training.attention
            dtype = torch.bfloat16 if training.precision == "bfloat16" else torch.float32
        elif self.adapter:
            model = model.model_copy(update={"targets": exact_targets(self.adapter.modules)})
        base = load_base(model, self.target.labels, dtype=dtype, attention=attention)
        known = {name for name, _ in base.model.named_modules()}
        if lacking := sorted((self.adapter.modules.keys() if self.adapter else set()) - known):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise AdapterError(
                f"{self.path} is no adapter of {model.name}, which has no {lacking[0]}{more}; name its base: --model"
            )
        resident = ResidentModel(base, device())
        resident.install(self.adapter or untrained(resident), self.base_change)
        return resident


def untrained(resident: ResidentModel) -> Adapter:
    """An adapter that changes nothing, under the head as it was loaded."""
    return resident.initial(1, 1.0, 0)


def openings(found: Trained, resident: ResidentModel, asked: Sequence[str], system: str | None) -> list[list[int]]:
    """Prompts as the model is given them, under the template of its training.

    Raises:
        DataError: the template refuses one, which is named, or one is empty.
    """
    tokenizer, given = resident.base.tokenizer, []
    for i, prompt in enumerate(asked):
        turns = [*([Turn("system", system)] if system else []), Turn("user", prompt)]
        try:
            if not prompt.strip():
                raise DataError("it is empty")
            given.append(found.task.opening(tokenizer, turns))
        except DataError as error:
            raise DataError(f"prompt {i + 1}: {error}") from error
    return given


def find(path: Path, *, client: str | None = None, model: str | None = None) -> Trained:
    """What lies in a folder.

    Args:
        path: of a run, an adapter or a whole model.
        client: whose model, where something stays with the clients of a run.
        model: where the base is, if not where the folder says.

    Raises:
        PolyRankError: there is nothing of the kind, it is damaged, or no one model can be told.
    """
    found = _found(path, client)
    if client is not None and found.run is None:
        raise RunFolderError(f"--client {client}: {path} is no run folder, and holds one model; leave --client out")
    if model is not None and found.adapter is None:
        raise AdapterError(f"--model {model}: {path} is a whole model, without a base beside it; leave --model out")
    if model is not None:
        named = found.target.model.model_copy(update={"name": model, "revision": None})
        found = replace(found, target=replace(found.target, model=named))
    if found.run is not None:
        check_model(found.run, found.target.model)
    return found


def _found(path: Path, client: str | None) -> Trained:
    expected = "expected a run folder, an adapter folder or a model folder"
    if not path.exists():
        raise AdapterError(f"there is no {path}; {expected}")
    if not path.is_dir():
        raise AdapterError(f"{path} is a file; {expected}")
    run = RunFolder(path)
    if run.exists():
        state, target = checkpoint.load(run.checkpoint), run.target()
        own = model_of(state, run.read_config(), client)
        return Trained(path, target, own.adapter, own.base_change, run, state.round)
    if whose.is_adapter(path):
        if reason := what_is_missing(path):
            raise AdapterError(reason)
        ours = (path / OURS).is_file()
        return Trained(
            path, peft_folder.read_target(path) if ours else whose.plain_target(path), peft_folder.read(path)
        )
    if whose.is_model(path):
        return Trained(path, whose.model_target(path), None)
    raise AdapterError(f"{path} holds neither a run, an adapter nor a model; {expected}")
