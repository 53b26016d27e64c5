"""What an engine in another process is made of, what it is asked and what it answers; whoever starts the process."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core import codec
from polyrank.core.errors import PolyRankError, WorkerError, named
from polyrank.hf.load import load_base
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.engines import engine_in_lanes
from polyrank.training.lanes import Lanes, SideBySide
from polyrank.training.local import Local
from polyrank.training.profile import Clock
from polyrank.training.tuning.forms import DTYPES
from polyrank.training.work import Outcome, Work, in_passes


@dataclass(frozen=True)
class Setup:
    """All that a process needs to make its engine.

    Args:
        model: the model section, resolved.
        task: what is learned.
        examples: client -> what it learns from.
        outputs: names of what the head gives.
        seed: of the run; the head is drawn from it.
        device: where it computes.
        training: the training section, resolved.
        threads: of torch, on a CPU.
        profile: whether its clock runs.
    """

    model: ModelConfig
    task: Task
    examples: Mapping[str, Examples]
    outputs: tuple[str, ...]
    seed: int
    device: str
    training: TrainingConfig
    threads: int
    profile: bool

    def engine(self) -> Local | SideBySide:
        """The engine, in the process that calls this."""
        dtype, attention = DTYPES[self.training.precision], self.training.attention
        base = load_base(self.model, self.outputs, seed=self.seed, dtype=dtype, attention=attention)
        resident = ResidentModel(base, torch.device(self.device))
        lanes, clock = Lanes(resident, int(self.training.lanes)), Clock(resident.device, running=self.profile)
        return engine_in_lanes(lanes, self.task, self.examples, self.training, clock)


@dataclass(frozen=True, eq=False)
class Pass:
    """What a process is asked to do together: client -> its work."""

    works: Mapping[str, Work]


@dataclass(frozen=True, eq=False)
class Done:
    """What a process answers.

    Args:
        outcomes: client -> what became of its work.
        seconds: that its clock booked, by phase.
        error: the name of what it failed with; empty if it did not.
        message: of that error.
    """

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    message: str = ""


class Trainer:
    """An engine in the process that makes it; bytes in and out."""

    def __init__(self) -> None:
        self._engine: Local | SideBySide | None = None

    def start(self, setup: bytes) -> bytes:
        """Load the base of a pickled `Setup`, from whoever started the process; a `Done` that says what went wrong."""
        return self._answer("while it started", lambda: self._started(setup))

    def train(self, asked: bytes, *beside: bytes) -> bytes:
        """A `Pass`, and tensors that it shares with others, to a `Done`."""
        known = {name: tensor for data in beside for name, tensor in codec.from_bytes(data).items()}
        works = list(codec.decode(Pass, *codec.unpack(asked, known)).works.values())
        return self._answer(training(works), lambda: self._trained(works))

    def _started(self, data: bytes) -> Done:
        setup: Setup = pickle.loads(data)
        torch.set_num_threads(setup.threads)
        self._engine = setup.engine()
        return Done()

    def _trained(self, works: Sequence[Work]) -> Done:
        assert self._engine is not None
        outcomes = {outcome.client: outcome for outcome in self._engine.run(works)}
        return Done(outcomes, self._engine.clock.take())

    @staticmethod
    def _answer(doing: str, do: Callable[[], Done]) -> bytes:
        try:
            answer = do()
        except PolyRankError as error:
            answer = Done(error=type(error).__name__, message=str(error))
        except Exception:  # whatever it was, the main process says it
            message = f"a worker process failed {doing}:\n{traceback.format_exc()}"
            answer = Done(error=WorkerError.__name__, message=message)
        return codec.dumps(answer)


def answered(data: bytes) -> Done:
    """What a `Trainer` answered.

    Raises:
        PolyRankError: it failed, as what it failed with.
    """
    done = codec.loads(Done, data)
    if done.error:
        raise named(done.error, WorkerError)(done.message)
    return done


def passes_for(works: Sequence[Work], setup: Setup) -> list[list[Work]]:
    """What one process is asked at a time: a pass for each of its lanes; those of most steps first."""
    options = setup.training
    clients = options.clients_per_pass if options.engine == "batched" else 1
    assert isinstance(clients, int)
    assert isinstance(options.lanes, int)
    return in_passes(works, clients * options.lanes, setup.examples, options.batch_size)


def ask(works: Sequence[Work], beside: Mapping[int, str] | None = None) -> bytes:
    """A pass as bytes, without the tensors that are sent beside it (``id`` -> name there)."""
    return codec.pack(*codec.encode(Pass({work.client: work for work in works})), beside)


def training(works: Sequence[Work]) -> str:
    """Whose training it was, for people."""
    names = [work.client for work in works]
    return "while it trained " + ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
