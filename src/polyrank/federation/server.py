"""What a server is over all rounds: who takes part, by which method and ranks, who does the work, what measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from polyrank import aggregation, privacy, ranks
from polyrank.aggregation import Download, Method, Parts
from polyrank.config import Config
from polyrank.core.adapter import Part
from polyrank.core.seeds import derive
from polyrank.core.state import ServerState
from polyrank.federation.gathering import Gather, in_the_clear
from polyrank.federation.loading import load
from polyrank.federation.masked import Here, Masked, check_secure
from polyrank.federation.planned import check_method, check_patience
from polyrank.federation.population import Population, first_ranks, initial, read
from polyrank.federation.round import cohort, cohort_size, parts_of, personalise, poisson_cohort, read_outs
from polyrank.federation.site import Site
from polyrank.privacy import Accountant, Central, Guard
from polyrank.privacy.noise import generator, new_secret
from polyrank.ranks import RankPolicy, scale_of
from polyrank.tasks import settled
from polyrank.training.schedule import over_rounds
from polyrank.training.work import Engine, Penalty, Proximal, Work


class Begun(NamedTuple):
    """A round before anybody trains.

    Args:
        sent: the cohort's read-outs.
        starts: the same with what stays with each client in its place.
        works: what each is asked to do, in the same order.
    """

    sent: Mapping[str, Download]
    starts: Mapping[str, Download]
    works: Sequence[Work]


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
        secret: of what a private run draws: noise, and who takes part. Empty where every client draws its own noise.
    """

    config: Config
    population: Population
    method: Method
    policy: RankPolicy
    engine: Engine
    site: Site
    rows_read: str
    gather: Gather = in_the_clear
    secret: str = field(default="", repr=False)

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
        """The clients of a round; of a private run they are drawn from its secret, and it may be nobody."""
        return drawn(self.config, self.clients, round_number, self.secret)

    @property
    def accountant(self) -> Accountant | None:
        """What the rounds cost, of a private run."""
        if self.config.privacy.model == "none":
            return None
        return _accountant(self.config, self.clients, self.secret)

    @property
    def hides(self) -> bool:
        """Whether nothing is said of single clients, of their data, or of who came, but the noised sum."""
        return self.config.privacy.model == "central" and "metrics" not in self.config.privacy.accept

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
        rank, parts = state.ranks[client], self.parts(max(number, 1))
        kept = self.policy.shrunk(rank)
        training, rounds = self.config.training, self.config.federation.rounds
        return Work(
            client,
            number,
            start.adapter,
            seed=derive(self.config.federation.seed, "training", number, client),
            base_change=start.base_change,
            trains=parts.trains,
            penalty=Penalty(kept, self.config.ranks.prune_weight) if kept < rank else None,
            guard=self._guard(state, parts.keeps if number else frozenset()),  # a score is of all that was trained
            proximal=Proximal(training.proximal, parts.trains & parts.sends) if training.proximal else None,
            lr_share=over_rounds(training, number, rounds),
            chooses=state.adapter.budget(rank) if self.method.info.chooses_indices else None,
        )

    def ask(self, state: ServerState) -> Begun:
        """The next round's cohort, what it starts from, and what it is asked to do."""
        number = state.round + 1
        sent = read_outs(state, self.cohort(number), self.method)
        starts = {client: personalise(state, client, own) for client, own in sent.items()}
        works = [self.work(state, client, number, start) for client, start in starts.items()]
        return Begun(sent, starts, works)

    def _guard(self, state: ServerState, keeps: frozenset[Part]) -> Guard | None:
        options = self.config.privacy
        if options.model != "local":
            return None
        assert options.noise != "auto"
        scale = next(iter(state.adapter.modules.values())).scale
        return Guard(options.clip, options.noise, scale, "metrics" in options.accept, keeps, self.secret)


def drawn(config: Config, clients: Sequence[str], number: int, secret: str) -> tuple[str, ...]:
    """The clients of a round; under central privacy they are drawn from a secret, as its accounting assumes."""
    options, asked = config.federation, config.privacy
    if asked.model != "central":
        return cohort(clients, options.participation, options.seed, number)
    if asked.sampling == "poisson":
        return poisson_cohort(clients, options.participation, generator(secret, "cohort", number))
    return cohort(clients, options.participation, int(generator(secret, "cohort", number).integers(2**62)), number)


def _accountant(config: Config, clients: Sequence[str], secret: str) -> Accountant:
    size = config.federation.participation * len(clients)
    if config.privacy.sampling == "fixed":
        size = cohort_size(len(clients), config.federation.participation)
    scored = config.privacy.model == "local" and ranks.policy(config.ranks).scores_clients
    cohorts = partial(drawn, config, clients, secret=secret)
    return Accountant(config.privacy, len(clients), size, cohorts, before=int(scored))


def build(
    config: Config,
    *,
    profile: bool = False,
    check: Callable[[Mapping[str, str]], None] | None = None,
    secret: str = "",
) -> Server:
    """Read the data, share them out, load the model, and resolve what was ``auto``.

    Args:
        config: what to run.
        profile: whether the site's clock books where the time goes.
        check: refuses data and model by their digests, before anything else that other data could break.
        secret: of a private run; by default a new one.

    Raises:
        PolyRankError: something in the configuration, the data or the model does not fit; nothing was written.
    """
    config = settled(config)
    method = aggregation.configured(config.aggregation)
    policy = ranks.policy(config.ranks)
    held = read(config, policy, check)
    first = first_ranks(config, policy, held.partition)
    check_method(config, method, policy, first)
    if config.secure.enabled:
        check_secure(config, method, policy, cohort_size(len(first), config.federation.participation))
    if config.privacy.model != "none":
        secret = secret or new_secret()
        meter = _accountant(config, sorted(held.partition.examples), secret)
        config = privacy.settled(config, meter)
        hidden = partial(_hidden, config, meter.cohort / meter.clients, secret)
        method = aggregation.configured(config.aggregation, hidden)
    check_patience(config)
    site = load(config, held, profile=profile)
    sizes = {client: len(own) for client, own in site.examples.items()}
    labels = {client: own.kind_counts(len(site.labels)) for client, own in site.examples.items()}
    population = Population(sizes, labels, held.partition.groups, site.left_out)
    gather: Gather = Masked(Here) if config.secure.enabled else in_the_clear
    return Server(site.config, population, method, policy, site.engine, site, held.rows_read, gather, secret)


def _hidden(config: Config, share: float, secret: str, method: Method) -> Method:
    """The method under central privacy, where that is asked for."""
    options = config.privacy
    if options.model != "central":
        return method
    assert options.noise != "auto"
    weigh = options.most_examples if config.aggregation.weights == "examples" else None
    return Central(
        method,
        clip=options.clip,
        noise=options.noise,
        share=share,
        most_examples=weigh,
        quantile=options.quantile,
        head=config.federation.head == "mean",
        secret=secret,
    )
