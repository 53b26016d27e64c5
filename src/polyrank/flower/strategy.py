"""A strategy for a ServerApp of one's own: in the place of FedAvg, with a rank per client.

The round is that of `polyrank.federation.round`; what is here is Flower's side of it. Clients are plain
ClientApps: they get ``arrays`` under PEFT's names, cut to their own rank, and send them back trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from polyrank import aggregation
from polyrank.config import RanksConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError, FlowerError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.judging import best_of, with_excess
from polyrank.federation.round import cohort, parts_of
from polyrank.federation.tree import Hooks, aggregate
from polyrank.flower.facts import MOST_EXAMPLES
from polyrank.flower.node_ranks import QUESTION, NodeRanks
from polyrank.flower.nodes import Member, Nodes
from polyrank.flower.peft_arrays import from_arrays, read_arrays, to_arrays
from polyrank.flower.plain_clients import PlainClients
from polyrank.ranks import policy
from polyrank.runs import checkpoint

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


class RankStrategy(Strategy):
    """Clients of different ranks under any of PolyRank's aggregation methods that leave nothing with the clients.

    A client is sent a record ``arrays`` of its own rank, with the names of PEFT's ``get_peft_model_state_dict`` (other
    arrays, such as a head's, are averaged whole), and a record ``config`` with ``server-round``, ``lora-rank``,
    ``lora-scale`` (PEFT's ``lora_alpha`` divided by the rank) and ``trains``, the parts that the method wants trained.
    It replies the arrays in the same shapes and one record of metrics with ``num-examples``. Whatever it measures,
    before or after its training, belongs there too: there is no evaluation phase, since Flower starts a process for
    every message.

    Args:
        method: of aggregation, see ``polyrank methods``.
        options: of the method.
        ranks: the section ``[ranks]``: scales, and the policy for nodes that declare no rank. By default those have the
            rank of the initial arrays, and every scale is 2.
        declared: whether nodes are asked for their rank; the ClientApp then needs `declare_rank`.
        validate: the loss of an adapter on the server's validation set, for the policy ``validation`` and the method
            ``validated``.
        fraction_train: of the nodes that take part in a round, drawn from seed and round alone.
        min_available_nodes: nodes to wait for before each round; at least 1.
        min_replies: good replies without which a round does not count.
        repeats: how often a round that does not count is asked for again.
        seed: of all that is drawn.
        uniform: whether every client weighs 1 instead of its number of examples.
        most_examples: a client that says it has more is left out; an assumption of ours.
        saved: a folder; the state is saved in it after each round, and `start` goes on from what it holds.
        weighted_by_key: as in FedAvg.
        arrayrecord_key: as in FedAvg.
        configrecord_key: as in FedAvg.

    Raises:
        ConfigError: a name, an option or a fraction is unknown or out of range, or the method keeps something with
            clients, changes the base or gives them others than the first rank indices, of which plain ClientApps know
            nothing.
    """

    def __init__(
        self,
        method: str = "replication",
        options: Mapping[str, Any] | None = None,  # Any: TOML values
        *,
        ranks: RanksConfig | None = None,
        declared: bool = True,
        validate: Callable[[ArrayRecord], float] | None = None,
        fraction_train: float = 1.0,
        min_available_nodes: int = 2,
        min_replies: int = 1,
        repeats: int = 1,
        seed: int = 0,
        uniform: bool = False,
        most_examples: int = MOST_EXAMPLES,
        saved: str | Path | None = None,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
    ) -> None:
        self.method = aggregation.build(method, options)
        info = self.method.info
        if info.changes_base or not info.first_indices or self.method.keeps():
            raise ConfigError(
                f"aggregation method {method} needs clients that know of it (it keeps something with them, changes "
                "the base, or gives them others than the first rank indices): take polyrank.flower.make_server_app and "
                "make_client_app, or another method"
            )
        if not 0 < fraction_train <= 1 or min_available_nodes < 1:
            raise ConfigError(
                f"fraction_train is {fraction_train}, expected more than 0 and at most 1; min_available_nodes is "
                f"{min_available_nodes}, expected 1 or more"
            )
        counts = (("min_replies", min_replies, 0), ("repeats", repeats, 0), ("most_examples", most_examples, 1))
        for name, value, least in counts:
            if value < least:
                raise ConfigError(f"{name} is {value}, expected {least} or more")
        chosen = policy(ranks) if ranks else None
        if ranks and chosen and chosen.scores_clients and validate is None:
            raise ConfigError(f"ranks.policy is {ranks.policy}; expected validate, the loss of an adapter, beside it")
        if self.method.info.judges and validate is None:
            raise ConfigError(
                f"aggregation method {method} weighs clients by what the server measures; expected validate, the loss "
                "of an adapter, beside it"
            )
        if ranks and chosen and chosen.prunes:
            raise ConfigError(f"ranks.policy is {ranks.policy}, whose regulariser plain ClientApps know nothing of")
        self.ranks, self.declared, self.validate = ranks, declared, validate
        self.fraction_train, self.min_available_nodes = fraction_train, min_available_nodes
        self.min_replies, self.repeats, self.seed, self.uniform = min_replies, repeats, seed, uniform
        self.most_examples = most_examples
        self.saved = Path(saved) if saved else None
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key, self.configrecord_key = arrayrecord_key, configrecord_key
        self.timeout = 3600.0
        self.state: ServerState | None = None
        self._nodes: Nodes | None = None

    def summary(self) -> None:
        """What is configured, for the log."""
        who = "nodes say it, else " if self.declared else ""
        log(INFO, "\t├──> Aggregation: %s", self.method.info.name)
        log(INFO, "\t├──> Ranks: %s%s", who, self.ranks.policy if self.ranks else "that of the initial arrays")
        log(INFO, "\t└──> Cohort: %g of the nodes, at least %d replies", self.fraction_train, self.min_replies)

    def start(  # noqa: PLR0917  # Flower's
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
    ) -> Result:
        """All rounds, as Flower's own loop; it also waits for nodes, repeats rounds with too few replies, and saves.

        Args:
            grid: Flower's.
            initial_arrays: of the global rank, under PEFT's names; what is in ``saved`` takes their place.
            num_rounds: the last round's number.
            timeout: seconds for the replies of a round, the messages' time to live, and the wait for nodes.
            train_config: sent to clients.
            evaluate_config: expected None, for clients measure in training.
            evaluate_fn: measures the global arrays after each round, and before the first.

        Raises:
            ConfigError: there is an ``evaluate_config``, or ranks do not fit the method or the initial arrays.
            FlowerError: too few nodes before a round, or too few good replies; rounds until then are saved.
            RunFolderError: what is saved is damaged or another strategy's.
        """
        if evaluate_config is not None:
            raise ConfigError("evaluate_config: clients measure while they train; put it into train_config")
        self.timeout = timeout
        config = train_config or ConfigRecord()
        self.summary()
        self.state = self._begin(initial_arrays)
        result = Result(arrays=to_arrays(self.state.adapter))
        if self.state.round == 0:
            _evaluate(0, evaluate_fn, result)
            here = self._here(grid)
            self.state = self._ranks.joined(self.state, here)
            if self._ranks.scores:
                self.state = self._ranks.scored(self.state, here, self._losses(self.state, grid, config))
        for number in range(self.state.round + 1, num_rounds + 1):
            log(INFO, "[ROUND %s/%s]", number, num_rounds)
            replies = self._clients.collect(
                grid, self.configure_train(number, result.arrays, config, grid), self.timeout
            )
            arrays, metrics = self.aggregate_train(number, replies)
            result.arrays = arrays or result.arrays
            if metrics is not None:
                log(INFO, "\t└──> %s", metrics)
                result.train_metrics_clientapp[number] = metrics
            if self.saved:
                checkpoint.save(self.saved, self.state, self._fingerprint())
            _evaluate(number, evaluate_fn, result)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message per client of the round's cohort, each with the arrays cut to its rank."""
        state = self.state or self._begin(arrays)
        state = replace(state, round=server_round - 1, adapter=read_arrays(arrays, state.adapter))
        here = self._here(grid)
        self.state = self._ranks.joined(state, here)
        clients = cohort(sorted(here), self.fraction_train, self.seed, server_round)
        return self._messages(self.state, clients, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next arrays, and the round's metrics; a bad reply is left out by name, and the others count.

        Metrics are the clients' own, weighted as their updates, with ``clients``, ``dropped`` and the bytes of arrays.

        Raises:
            FlowerError: there was no `configure_train`.
        """
        if self.state is None:
            raise FlowerError("aggregate_train was called before configure_train")
        updates, dropped = self._clients.updates(replies)
        if self.method.info.judges:
            updates = with_excess(updates, self._measured(updates))
        sent = self._clients.sent
        hooks = Hooks(aggregate=partial(best_of, self._loss)) if self.method.info.judges else None
        result = aggregate(self.state, updates, self.method, uniform=self.uniform, sent=sent, hooks=hooks)
        for client, reason in {**dropped, **result.dropped}.items():
            log(WARNING, "round %d: node %s is left out: %s", server_round, client, reason)
        self.state = result.state
        return to_arrays(self.state.adapter), self._clients.metrics(updates, result)

    def configure_evaluate(self, *_: object) -> Iterable[Message]:
        """Nothing: clients measure while they train."""
        return []

    def aggregate_evaluate(self, *_: object) -> MetricRecord | None:
        """Nothing: clients measure while they train."""
        return None

    def _parts(self, round_number: int) -> aggregation.Parts:
        return parts_of(self.method, round_number, local_head=False)

    # Where it begins, and who takes part ----------------------------------------------------------------------------

    def _begin(self, arrays: ArrayRecord) -> ServerState:
        """The state before the first round, or what is saved."""
        adapter = from_arrays(arrays)
        self._ranks = NodeRanks(self.ranks, adapter.rank, self.method)
        self._clients = PlainClients(
            self.method,
            arrays=self.arrayrecord_key,
            config=self.configrecord_key,
            examples=self.weighted_by_key,
            most_examples=self.most_examples,
            least=self.min_replies,
            repeats=self.repeats,
        )
        if self.saved and any(self.saved.glob("round-*")):
            state = checkpoint.load(self.saved, self._fingerprint())
            log(INFO, "going on after round %d of %s", state.round, self.saved)
            return state
        scale = self._ranks.scale(adapter.rank)
        modules = {name: replace(factors, scale=scale) for name, factors in adapter.modules.items()}
        return ServerState(0, Adapter(modules, adapter.dense), {}, {}, seed=self.seed)

    def _fingerprint(self) -> str:
        return f"{self.method}, {self._ranks.config!r}, seed {self.seed}, uniform {self.uniform}"

    def _here(self, grid: Grid) -> Mapping[str, Member]:
        """The nodes that are connected, when they are enough; each is asked once for its rank, or nobody anything."""
        if self._nodes is None or self._nodes.grid is not grid:
            question = (QUESTION, RecordDict()) if self.declared else None
            self._nodes = Nodes(grid, question, self._ranks.read, self.timeout)
        self._nodes.wait(self.min_available_nodes, self.timeout)
        return self._nodes.here()

    def _messages(self, state: ServerState, clients: Sequence[str], config: ConfigRecord) -> list[Message]:
        contents = self._clients.contents(state, clients, config)
        return [Message(content, int(client), "train", ttl=self.timeout) for client, content in contents.items()]

    def _losses(self, state: ServerState, grid: Grid, config: ConfigRecord) -> dict[str, float]:
        """Losses of the scoring round, in which everybody trains once and nothing is aggregated."""
        losses = dict.fromkeys(state.ranks, math.inf)
        asked = self._messages(state, sorted(state.ranks), config)
        updates, _ = self._clients.updates(self._clients.collect(grid, asked, self.timeout))
        return losses | dict(zip((update.client for update in updates), self._measured(updates), strict=True))

    def _measured(self, updates: Sequence[ClientUpdate]) -> list[float]:
        """Loss of each client's model on the server's validation set; infinite where it is not finite."""
        found = [self._loss(update.adapter, None) for update in updates]
        return [loss if math.isfinite(loss) else math.inf for loss in found]

    def _loss(self, adapter: Adapter, base_change: Adapter | None) -> float:  # noqa: ARG002  # there is none
        assert self.validate is not None  # checked where the strategy was made
        return self.validate(to_arrays(adapter))


def _evaluate(number: int, evaluate: Evaluate | None, result: Result) -> None:
    if evaluate and (found := evaluate(number, result.arrays)) is not None:
        log(INFO, "\t└──> at the server: %s", found)
        result.evaluate_metrics_serverapp[number] = found
