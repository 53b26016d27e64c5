"""What a server is over all rounds: who takes part, by which method and ranks, who does the work, what measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from polyrank import aggregation, ranks
from polyrank.aggregation import Download, Method, Parts
from polyrank.config import Config
from polyrank.core.seeds import derive
from polyrank.core.shares import part_of
from polyrank.core.state import ServerState
from polyrank.federation.gathering import Gather, in_the_clear
from polyrank.federation.loading import load
from polyrank.federation.masked import Here, Masked, check_secure
from polyrank.federation.planned import check_method
from polyrank.federation.population import Population, first_ranks, initial, read
from polyrank.federation.round import cohort, parts_of
from polyrank.federation.site import Site
from polyrank.ranks import RankPolicy, scale_of
from polyrank.tasks import settled
from polyrank.training.work import Engine, Penalty, Work


@dataclass(frozen=True, eq=False)
class Server:
    """All that stays the same over the rounds of a run.

    Args:
        config: resolved: no ``auto`` is left.
        population: who takes part.
        method: how they are aggregated.
        policy: who gets which rank.
        engine: who does the work: the site, or nodes elsewhere.
        site: the server's own base and data; what came out is measured with them.
        rows_read: what was read, for people.
        gather: how a round's work is done and added up.
    """

    config: Config
    population: Population
    method: Method
    policy: RankPolicy
    engine: Engine
    site: Site
    rows_read: str
    gather: Gather = in_the_clear

    def close(self) -> None:
        """End the processes that train clients, where there are any."""
        self.engine.close()

    @property
    def clients(self) -> tuple[str, ...]:
        """Names, sorted."""
        return self.population.clients

    @property
    def local_head(self) -> bool:
        """Whether heads stay with their clients."""
        return self.config.federation.head == "local"

    def parts(self, round_number: int) -> Parts:
        """What is trained and what travels in a round."""
        return parts_of(self.method, round_number, local_head=self.local_head)

    def cohort(self, round_number: int) -> tuple[str, ...]:
        """The clients of a round."""
        options = self.config.federation
        return cohort(self.clients, options.participation, options.seed, round_number)

    def initial_state(self) -> ServerState:
        """The server before the first round, with the policy's first ranks."""
        seed = self.config.federation.seed
        start = self.policy.start(self.clients, self.population.groups, seed)
        return ServerState(0, initial(self.site.resident, self.config), start, self.scales(start), seed=seed)

    def scales(self, client_ranks: Mapping[str, int]) -> dict[str, float]:
        """Client -> the scale that goes with its rank."""
        return {client: scale_of(rank, self.config.ranks) for client, rank in client_ranks.items()}

    def work(self, state: ServerState, client: str, number: int, start: Download) -> Work:
        """What a client is asked to do.

        Args:
            state: before the round.
            client: its name.
            number: of the round; 0 is the scoring round.
            start: what the client trains from.
        """
        kept = self.policy.shrunk(state.ranks[client])
        return Work(
            client,
            number,
            start.adapter,
            seed=derive(self.config.federation.seed, "training", number, client),
            base_change=start.base_change,
            trains=self.parts(max(number, 1)).trains,
            penalty=Penalty(kept, self.config.ranks.prune_weight) if kept < state.ranks[client] else None,
        )


def build(config: Config, *, profile: bool = False, check: Callable[[Mapping[str, str]], None] | None = None) -> Server:
    """Read the data, share them out, load the model, and resolve what was ``auto``.

    Args:
        config: what to run.
        profile: whether the site's clock books where the time goes.
        check: refuses data and model by their digests, before anything else that other data could break.

    Raises:
        PolyRankError: something in the configuration, the data or the model does not fit; nothing was written.
    """
    config = settled(config)
    method = aggregation.build(config.aggregation.method, config.aggregation.options)
    policy = ranks.policy(config.ranks)
    held = read(config, policy, check)
    first = first_ranks(config, policy, held.partition)
    check_method(config, method, policy, first)
    if config.secure.enabled:
        check_secure(config, method, policy, max(1, part_of(len(first), config.federation.participation)))
    site = load(config, held, profile=profile)
    sizes = {client: len(own) for client, own in site.examples.items()}
    labels = {client: own.kind_counts(len(site.labels)) for client, own in site.examples.items()}
    population = Population(sizes, labels, held.partition.groups, site.left_out)
    server = Server(site.config, population, method, policy, site.engine, site, held.rows_read)
    return replace(server, gather=Masked(Here)) if config.secure.enabled else server
