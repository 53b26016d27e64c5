"""From a configuration and its data to a site: model loaded, texts encoded, what was ``auto`` resolved."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polyrank import ranks
from polyrank.config import Config
from polyrank.core.errors import DataError
from polyrank.data import Partition, TextDataset
from polyrank.federation.population import Holdings, base_digests, initial, read, read_alone
from polyrank.federation.site import Site
from polyrank.federation.trainers import engine_of, joined, lanes_of
from polyrank.federation.tuned import chosen
from polyrank.hf.load import head_end_token, load_base, load_tokenizer
from polyrank.hf.quantized import require_bitsandbytes
from polyrank.hf.recompute import repeated_layers
from polyrank.hf.resident import ResidentModel
from polyrank.hf.skeleton import META
from polyrank.hf.writers import check_writer
from polyrank.tasks import Task, settled
from polyrank.tasks import task as named_task
from polyrank.tasks.registry import recorded
from polyrank.tasks.task import Encoded, Examples
from polyrank.training.choosing import Choosing
from polyrank.training.guarded import Guarded
from polyrank.training.preflight import check_reads
from polyrank.training.profile import Clock

log = logging.getLogger(__name__)


def participant(config: Config) -> Site:
    """The site of somebody who trains for a server.

    With one client there is nothing to share out: all of the training data is that client's, whatever the sections say
    of partitions, methods and rank policies, which are the server's.

    Raises:
        PolyRankError: something in the data or the model does not fit the configuration.
    """
    config = settled(config)
    return load(
        config, read_alone(config) if config.federation.clients == 1 else read(config, ranks.policy(config.ranks))
    )


def load(config: Config, held: Holdings, *, profile: bool = False) -> Site:
    """Load the model, encode the data, and resolve what was ``auto``.

    Args:
        config: of base and training.
        held: the data.
        profile: whether the site's clock books where the time goes.

    Raises:
        PolyRankError: something in the data or the model does not fit.
    """
    if config.model.quantization != "none":
        require_bitsandbytes(config.model.quantization)
    read = encode(config, held)
    task, sets, encoded, used = read.task, read.sets, read.encoded, read.used
    largest = max(part.examples.largest for part in encoded.values())
    outputs = task.outputs(held.train)

    def loaded(dtype: torch.dtype, attention: str) -> ResidentModel:
        resident = bare(config, outputs, dtype, attention)
        resident.check_tokens(largest)
        resident.install(initial(resident, config))
        for name, part in sets.items():
            check_reads(resident, task, part, encoded[name])
        if config.training.gradient_checkpointing:
            repeated_layers(resident.model)  # before anything is trained
        return resident

    examples = shared_out(held.partition, used, encoded["train"])
    if empty := [client for client, own in examples.items() if len(own) == 0]:
        why = ", ".join(encoded["train"].left_out)
        raise DataError(f"{len(empty)} client(s) have no example left, {empty[0]} for one: {why}; mend their rows")
    digests = {**held.digests, **base_digests(config)}
    cluster = joined(config.training)
    if cluster is not None:
        training = config.training.model_copy(update={"workers": cluster.cut.actors})
        config = config.model_copy(update={"training": training})
    how = chosen(config, task, loaded, examples, digests=digests)
    resident, config = how.resident, recorded(how.config, task)
    if resident.base.note:
        log.warning(resident.base.note)
    clock = Clock(resident.device, running=profile)
    lanes = lanes_of(config.training, resident)
    return Site(
        config=config,
        task=task,
        resident=resident,
        outputs=outputs,
        labels=held.train.label_names,
        examples=examples,
        test=encoded["test"].examples,
        validation=encoded["validation"].examples if held.validation else None,
        engine=Guarded(Choosing(engine_of(config, task, lanes, examples, outputs, clock=clock, cluster=cluster))),
        lanes=lanes,
        plan=how.plan,
        clock=clock,
        digests=digests,
        left_out=left_out(held.partition, used, encoded["train"]),
    )


@dataclass(frozen=True, eq=False)
class ReadSets:
    """The data of a configuration as its task reads them.

    Args:
        task: with its options as data and model have them.
        tokenizer: the model's.
        sets: ``train``, of what some client holds, ``test``, and ``validation`` where there is one.
        encoded: the same as examples.
        used: rows of the training data that some client holds; others are not even tokenised.
    """

    task: Task
    tokenizer: Any  # Any: as in `Task.encode`
    sets: Mapping[str, TextDataset]
    encoded: Mapping[str, Encoded]
    used: np.ndarray


def encode(config: Config, held: Holdings) -> ReadSets:
    """Read the texts as examples; of the model only the tokenizer is loaded.

    Raises:
        PolyRankError: a text or an option does not fit, or of a set nothing is left.
    """
    task = named_task(config)
    if task.writes:  # before what its tokenizer lacks, which is not what is wrong with an encoder
        check_writer(config.model)
    tokenizer = load_tokenizer(config.model)
    task = task.resolved(held.train, tokenizer)
    used = np.unique(np.concatenate(list(held.partition.examples.values())))
    sets = {"train": held.train.subset(used), "test": held.test}
    sets |= {"validation": held.validation} if held.validation else {}
    end = end_for(config, task)
    encoded = {name: encode_set(config, task, part, tokenizer, end) for name, part in sets.items()}
    return ReadSets(task, tokenizer, sets, encoded, used)


def bare(config: Config, outputs: tuple[str, ...], dtype: torch.dtype, attention: str) -> ResidentModel:
    """The base of a configuration, with nothing installed."""
    base = load_base(config.model, outputs, seed=config.federation.seed, dtype=dtype, attention=attention)
    return ResidentModel(base, device())


def skeleton(config: Config, outputs: tuple[str, ...]) -> ResidentModel:
    """`bare` on the meta device: names and shapes, for which no weights are read, nor a tokenizer."""
    base = load_base(config.model, outputs, seed=config.federation.seed, weights=False)
    return ResidentModel(base, META)


def device() -> torch.device:
    """Where this machine computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def end_for(config: Config, task: Task) -> int | None:
    """The token that the head of a configuration's model looks for in texts, if there is one."""
    return None if config.model.head == "mean-pool" or task.writes else head_end_token(config.model)


def encode_set(
    config: Config, task: Task, dataset: TextDataset, tokenizer: Any, end: int | None
) -> Encoded:  # Any: as above
    """A data set as the task reads it; what it cuts or leaves out is in the log.

    Raises:
        DataError: nothing is left of it.
    """
    max_tokens = config.data.max_tokens
    found = task.encode(dataset, tokenizer, max_tokens, end=end)
    if len(found.cut):
        log.info("%d of %d texts of %s are cut to %d tokens", len(found.cut), len(dataset), dataset.where, max_tokens)
    for reason, rows in found.left_out.items():
        log.warning(
            "%d of %d rows of %s are left out: %s; the first: row %d",
            *(len(rows), len(dataset), dataset.where, reason, dataset.row(int(rows[0]))),
        )
    for what, rows in found.noted.items():
        log.warning(
            "%d of %d rows of %s: %s; the first: row %d",
            *(len(rows), len(dataset), dataset.where, what, dataset.row(int(rows[0]))),
        )
    if len(found.examples) == 0:
        why = ", ".join(found.left_out) or "there are none"
        raise DataError(f"{dataset.where}: no row is left as an example: {why}")
    return found


def shared_out(partition: Partition, used: np.ndarray, encoded: Encoded) -> dict[str, Examples]:
    """Each client's examples; of a client of which nothing is left, none.

    Args:
        partition: client -> rows of the training data.
        used: rows that were encoded.
        encoded: as which of them.
    """
    kept = used[encoded.kept]
    return {
        client: encoded.examples.subset(np.searchsorted(kept, rows[np.isin(rows, kept)]))
        for client, rows in partition.examples.items()
    }


def left_out(partition: Partition, used: np.ndarray, encoded: Encoded) -> dict[str, dict[str, int]]:
    """Client -> reason -> how many of its rows are no examples; clients of which none is left out do not stand here."""
    lost = {reason: used[rows] for reason, rows in encoded.left_out.items()}
    counts = {
        client: {reason: int(np.isin(rows, gone).sum()) for reason, gone in lost.items()}
        for client, rows in partition.examples.items()
    }
    found = {client: {reason: n for reason, n in own.items() if n} for client, own in counts.items()}
    return {client: own for client, own in found.items() if own}
