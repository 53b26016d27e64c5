"""Who holds what: the data of a configuration, shared out over its clients, and the ranks that they begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyrank import data, tasks
from polyrank.aggregation import METHODS
from polyrank.config import Config, DataConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError, ModelError
from polyrank.core.seeds import numpy_generator
from polyrank.data import Partition, Split, TextDataset
from polyrank.hf.digest import model_digests
from polyrank.hf.load import checkpoint_classes
from polyrank.hf.resident import ResidentModel
from polyrank.ranks import RankPolicy, scale_of
from polyrank.tasks.registry import writing_of

DEFAULT_CLIENTS = 100


@dataclass(frozen=True, eq=False)
class Population:
    """Who takes part, and how much each of them has; wherever it is, and however much it is, it is not in here.

    Args:
        sizes: client -> number of its examples.
        labels: client -> how many of them have each label, in their order; nothing where the data have none.
        groups: client -> which kind of client it is, where the partition has kinds.
        left_out: client -> reason -> how many of its rows are no examples; clients with none are not in here.
    """

    sizes: Mapping[str, int]
    labels: Mapping[str, Sequence[int]]
    groups: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def clients(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(sorted(self.sizes))


@dataclass(frozen=True, eq=False)
class Holdings:
    """The data of a configuration.

    Args:
        train: what clients train on.
        test: what the server measures with.
        validation: the balanced set by which the server scores clients, where the rank policy or the method asks for
            one.
        partition: client -> its rows of ``train``.
        read: how many rows were read from each source.
        digests: what the data held when they were read.
    """

    train: TextDataset
    test: TextDataset
    validation: TextDataset | None
    partition: Partition
    read: Mapping[str, int]
    digests: Mapping[str, str]

    @property
    def rows_read(self) -> str:
        """What was read, for people: ``80 rows of train.csv``."""
        return ", ".join(f"{count} rows of {source}" for source, count in self.read.items())


def read(config: Config, policy: RankPolicy, check: Callable[[Mapping[str, str]], None] | None = None) -> Holdings:
    """Read the data and share them out.

    Args:
        config: of the federation.
        policy: of ranks; one that scores clients has a validation set held out, as has a method that judges them.
        check: refuses data and model by their digests, before anything else that other data could break.

    Raises:
        PolyRankError: the data cannot be read or shared out as asked, or are refused.
    """
    split = load_data(config)
    if check is not None:
        check(digests(config, split))
    train, validation = held_out(split.train, config, policy)
    return Holdings(train, split.test, validation, share_out(train, config), split.read, split.digests)


def read_alone(config: Config) -> Holdings:
    """Read the data, all of which is one client's.

    Raises:
        PolyRankError: the data cannot be read.
    """
    alone = config.data.model_copy(update={"column": None})  # which says who holds what: it may have none
    split = load_data(config.model_copy(update={"data": alone}))
    seed, least = config.federation.seed, config.data.min_examples
    partition = data.partition(split.train, "iid", 1, seed=seed, min_examples=least, options={})
    return Holdings(split.train, split.test, None, partition, split.read, split.digests)


def held_out(train: TextDataset, config: Config, policy: RankPolicy) -> tuple[TextDataset, TextDataset | None]:
    """What clients train on, and what the server keeps to score them, where anything asks for it."""
    if not (policy.scores or config.data.hold_out or METHODS[config.aggregation.method].info.judges):
        return train, None
    generator = numpy_generator(config.federation.seed, "data", "validation")
    held, rest = data.hold_out(train, config.ranks.validation_per_label, generator)
    return train.subset(rest), train.subset(held)


def global_rank(config: Config) -> int:
    """R, the rank of the global adapter: the highest in the configuration, whoever takes part."""
    return max(*config.ranks.levels, *config.ranks.by_name.values(), 0)


def initial(resident: ResidentModel, config: Config) -> Adapter:
    """The global adapter before the first round."""
    rank = global_rank(config)
    return resident.initial(rank, scale_of(rank, config.ranks), config.federation.seed)


def load_data(config: Config) -> Split:
    """Training and test data of a configuration."""
    config = tasks.settled(config)
    options, learned = config.data, tasks.task(config)
    return data.load(
        options.train,
        options.test,
        text=options.text,
        writing=writing_of(options) if learned.writes else None,
        label=options.label,
        labels=options.labels,
        labelled=learned.labelled,
        order=() if learned.writes else _head_order(config),
        quoting=options.quoting,
        extra_columns=list(dict.fromkeys([*([options.column] if options.column else []), *learned.columns])),
        test_share=options.test_share,
        seed=config.federation.seed,
        limit_train=options.limit_train,
        limit_test=options.limit_test,
    )


def _head_order(config: Config) -> tuple[str, ...]:
    """The classes of the checkpoint's head, where the configuration does not name any."""
    if config.data.labels is not None:
        return ()
    try:
        return checkpoint_classes(config.model)
    except ModelError:  # said by `load_base`, after what is wrong with data and ranks
        return ()


def digests_of(config: Config) -> dict[str, str]:
    """What the data and the model of a configuration hold now, as `read` would find it.

    Raises:
        PolyRankError: the data cannot be read, or the model cannot be found.
    """
    return digests(config, load_data(config))


def digests(config: Config, split: Split) -> dict[str, str]:
    """What these data and the model of a configuration hold."""
    return {**split.digests, **base_digests(config)}


def base_digests(config: Config) -> dict[str, str]:
    """What the model of a configuration holds, as far as its task uses it."""
    return model_digests(config.model, writes=tasks.task(tasks.settled(config)).writes)


def share_out(train: TextDataset, config: Config) -> Partition:
    """Who holds what of the training data."""
    options = config.data
    clients = config.federation.clients
    if clients is None and options.partition != "by-column":
        clients = DEFAULT_CLIENTS
    return data.partition(
        train,
        options.partition,
        clients,
        seed=config.federation.seed,
        min_examples=options.min_examples,
        options=_partition_options(options),
    )


def _partition_options(options: DataConfig) -> dict[str, Any]:  # Any: TOML values
    """Options of the partition, from keys of their own in ``[data]`` and from ``data.options``."""
    keys = DataConfig.model_fields.keys()
    if twice := sorted(options.options.keys() & keys):
        raise ConfigError(f"data.options has {twice[0]!r}, which has a key of its own; expected data.{twice[0]}")
    named = {name: getattr(options, name) for name in data.PARTITIONS.options(options.partition) if name in keys}
    return named | options.options


def first_ranks(config: Config, policy: RankPolicy, partition: Partition) -> dict[str, int]:
    """The ranks of the first round; of a policy that scores, those that it gives in this number to whom it does."""
    start = policy.start(sorted(partition.examples), partition.groups, config.federation.seed)
    return policy.assign(start, {}) if policy.scores else start
