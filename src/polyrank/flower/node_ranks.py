"""Who has which rank where nodes come and go: what a node declares, or else what a policy gives it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from polyrank import ranks
from polyrank.aggregation import Method
from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError, FlowerError
from polyrank.core.state import ServerState
from polyrank.federation.round import check_ranks, with_ranks
from polyrank.flower.facts import read_rank
from polyrank.flower.nodes import Member
from polyrank.flower.records import shown

QUESTION = "query.rank"

log = logging.getLogger(__name__)


def declare_rank(app: ClientApp) -> ClientApp:
    """Let a ClientApp say what rank its node can afford: ``lora-rank`` of the node's configuration."""

    @app.query("rank")
    def rank(message: Message, context: Context) -> Message:
        own = context.node_config.get("lora-rank")
        record = ConfigRecord({} if own is None else {"lora-rank": own})
        return Message(RecordDict({"rank": record}), reply_to=message)

    return app


def read_declared(node: int, records: RecordDict) -> Sequence[Member]:
    """What `declare_rank` says.

    Raises:
        FlowerError: it says something else.
    """
    if "rank" not in records.config_records:
        raise FlowerError("its answer has no record 'rank'; use polyrank.flower.declare_rank(app)")
    own = records.config_records["rank"].get("lora-rank")
    if own is None:
        return [Member(node, str(node), None)]
    return [Member(node, str(node), read_rank(own))]


class NodeRanks:
    """Ranks and scales of nodes.

    Args:
        config: the section ``[ranks]``; None: the global rank for those that declare none.
        rank: of the global adapter.
        method: of aggregation.

    Raises:
        ConfigError: a level is above the global rank.
    """

    def __init__(self, config: RanksConfig | None, rank: int, method: Method) -> None:
        self.config = config or RanksConfig(policy="fixed", levels=[rank])
        self.rank, self.method = rank, method
        if self.config.levels[-1] > rank:
            raise ConfigError(f"ranks.levels has {self.config.levels[-1]}, and the initial arrays have rank {rank}")
        self._policy = ranks.policy(self.config)

    @property
    def scores(self) -> bool:
        """Whether clients are scored before the first round."""
        return self._policy.scores_clients

    def scale(self, rank: int) -> float:
        """That goes with a rank."""
        return ranks.scale_of(rank, self.config)

    def read(self, node: int, records: RecordDict) -> Sequence[Member]:
        """What a node declares, if it can take part with that.

        Raises:
            FlowerError: it cannot be read, is above the global rank, or the method needs another.
        """
        (member,) = read_declared(node, records)
        if member.rank is not None and member.rank > self.rank:
            raise FlowerError(f"it declares rank {shown(member.rank)}; the initial arrays have {self.rank}")
        if member.rank is not None and member.rank != self.rank and self.method.info.equal_ranks:
            name = self.method.info.name
            raise FlowerError(f"it declares rank {member.rank}; {name} needs clients of equal ranks, {self.rank}")
        return [member]

    def joined(self, state: ServerState, here: Mapping[str, Member]) -> ServerState:
        """The state with ranks and scales for nodes that are new; those of the others stay.

        Raises:
            ConfigError: before the first round, the policy or the method cannot do with such nodes. Later nothing that
                comes ends a run: a node for which the policy has no place gets the lowest level.
        """
        new = sorted(here.keys() - state.ranks.keys())
        if not new:
            return state
        try:
            started = self._declared(here).start(sorted(state.ranks.keys() | here.keys()), {}, state.seed)
        except ConfigError as error:
            if not state.ranks:
                raise
            lowest = self.config.levels[0]
            log.warning("%s get rank %d, the lowest: %s", ", ".join(new), lowest, error)
            started = {client: here[client].rank or lowest for client in new}
        given = {**started, **state.ranks}
        check_ranks(self.method, given, self.rank)
        return self._with(state, given)

    def scored(self, state: ServerState, here: Mapping[str, Member], losses: Mapping[str, float]) -> ServerState:
        """The state with the ranks that the policy makes of the clients' losses."""
        return self._with(state, self._declared(here).assign(state.ranks, losses))

    def _declared(self, here: Mapping[str, Member]) -> ranks.RankPolicy:
        own = {client: member.rank for client, member in here.items() if member.rank is not None}
        return ranks.Declared(self.config, inner=self._policy, ranks=own)

    def _with(self, state: ServerState, given: Mapping[str, int]) -> ServerState:
        return with_ranks(state, given, {client: self.scale(rank) for client, rank in given.items()})
