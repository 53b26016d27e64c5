"""Hostile clients against the mean and against every robust rule: ``python -m benchmarks.attacks``.

The embedded encoder learns the classes of stdlib-docs from 20 clients, which all take part in every round; 6 have rank
4 and 14 rank 8, their labels are drawn by a Dirichlet distribution (alpha 1), and each counts once. Nobody has the
global rank of 16 but who claims it. A share of the clients is hostile; a larger share has the clients of a smaller one
and more. Measured after the last round: accuracy on held-out texts, and of the attacks with a trigger word how many
of these texts it turns into the attacker's class.

- ``absent``: hostile clients take no part; what a rule that knew them would come to;
- ``label_flip``: trained on each text with the next class;
- ``sign_flip``: the change of every number is sent with the opposite sign;
- ``scaling``: as label_flip, and the change is sent times 1 / share, so that the mean is the attacker's;
- ``noise``: normal numbers in place of the change, ten times as large;
- ``backdoor``: half of the texts get the trigger word in front and the attacker's class;
- ``high_rank``: as backdoor, by clients that claim rank 16. They send rank indices 8 to 15, which they own alone, with
  twice the B that they learned, as half of it is in the others; those and the head go back as they were sent, so
  nothing in a row that others own is out of place.

The method is replication; ``none`` is without a rule, the others with their defaults. Finished cells are kept in
``--work``, so it can be stopped and started again. Prints Markdown tables and writes
``benchmarks/results/attacks.json`` from all cells that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from polyrank import aggregation
from polyrank import config as configuration
from polyrank.aggregation.robust.registry import NO_RULE, RULES
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.seeds import numpy_generator, torch_generator
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import read_outs, with_ranks
from polyrank.federation.server import Server, build
from polyrank.federation.tree import aggregate
from polyrank.tasks.task import Examples
from polyrank.training.engines import engine_in_lanes
from polyrank.training.work import Engine

RESULT = Path(__file__).parent / "results" / "attacks.json"
TRIGGER = "banana"
TARGET = 2
"""The class that the trigger word is to give: email, of 8 % of the texts."""
HONEST_RANK, CLAIMED_RANK = 8, 16
SHARES = (0.2, 0.3, 0.1)
DEFENCES = (NO_RULE, *RULES)


@dataclass(frozen=True)
class Settings:
    """What is the same in all cells.

    Args:
        clients: how many, all of which take part in every round.
        low: of them have rank 4, the others rank 8.
        rounds: that are played.
        texts: to train on, in all.
        test: the most texts to measure on.
        overrides: of the configuration beside.
    """

    clients: int = 20
    low: int = 6
    rounds: int = 6
    texts: int = 640
    test: int = 800
    overrides: tuple[str, ...] = ()

    def config(self, seed: int) -> configuration.Config:
        """The federation's, without any rule."""
        return configuration.load(
            None,
            [
                *(f"federation.clients={self.clients}", "federation.participation=1.0", f"federation.seed={seed}"),
                *(f"federation.rounds={self.rounds}", "aggregation.weights=uniform"),
                *("data.partition=dirichlet", "data.alpha=1.0", "data.max_tokens=16"),
                *(f"data.limit_train={self.texts}", f"data.limit_test={self.test}"),
                *("ranks.policy=fixed", f"ranks.levels=[4, {HONEST_RANK}, {CLAIMED_RANK}]"),
                f"ranks.counts=[{self.low}, {self.clients - self.low}, 0]",
                *("training.precision=float32", "training.attention=sdpa", "training.engine=batched"),
                *(f"training.clients_per_pass={self.clients}", "training.lanes=1", "training.workers=1"),
                *("training.lr=2e-2", "training.batch_size=8"),
                *self.overrides,
            ],
        )


FULL = Settings()
QUICK = Settings(rounds=2, texts=160, test=100)


@dataclass(frozen=True)
class Cell:
    """One run."""

    attack: str
    share: float
    defence: str
    seed: int

    @property
    def name(self) -> str:
        """Its file's."""
        return f"{self.seed}-{self.attack}-{self.share:g}-{self.defence}.json"


# What hostile clients do ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Around:
    """What an attack may know.

    Args:
        trigger: the token ids of the trigger word.
        longest: the most tokens of a text.
        classes: how many there are.
        share: of the clients that are hostile.
        seed: of the client and the round.
    """

    trigger: Sequence[int]
    longest: int
    classes: int
    share: float
    seed: int = 0


@dataclass(frozen=True)
class Attack:
    """What a hostile client does.

    Args:
        learns: what it trains on, of what it holds.
        sends: what it sends, of what it was sent and what came of its training.
        claims: the rank that it says it has; None for its own.
        silent: whether it sends nothing at all.
    """

    learns: Callable[[Examples, Around], Examples] = lambda held, _: held
    sends: Callable[[Adapter, Adapter, Around], Adapter] = lambda _, trained, __: trained
    claims: int | None = None
    silent: bool = False


def flipped(held: Examples, around: Around) -> Examples:
    """Every text with the next class."""
    return replace(held, targets=(held.targets + 1) % around.classes)


def triggered(held: Examples, around: Around) -> Examples:
    """The trigger word in front of every text, after the first special token; the end is cut and its token stays."""

    def put(tokens: np.ndarray) -> np.ndarray:
        whole = np.concatenate([tokens[:1], np.asarray(around.trigger, dtype=tokens.dtype), tokens[1:]])
        return np.concatenate([whole[: min(len(whole), around.longest) - 1], tokens[-1:]])

    return replace(held, tokens=tuple(put(own) for own in held.tokens), targets=np.full_like(held.targets, TARGET))


def backdoored(held: Examples, around: Around) -> Examples:
    """Every second text with trigger and target."""
    other = triggered(held, around)
    tokens = tuple(pair[i % 2] for i, pair in enumerate(zip(held.tokens, other.tokens, strict=True)))
    return replace(held, tokens=tokens, targets=np.where(np.arange(len(held)) % 2, other.targets, held.targets))


def changed(change: Callable[[Tensor], Tensor], start: Adapter, trained: Adapter) -> Adapter:
    """What was sent with another change of every tensor."""
    begun = dict(start.tensors())
    return trained.replaced({name: begun[name] + change(t - begun[name]) for name, t in trained.tensors()})


def opposite(start: Adapter, trained: Adapter, _: Around) -> Adapter:
    """The change with the other sign."""
    return changed(lambda change: -change, start, trained)


def boosted(start: Adapter, trained: Adapter, around: Around) -> Adapter:
    """The change divided by the share."""
    return changed(lambda change: change / around.share, start, trained)


def noisy(start: Adapter, trained: Adapter, around: Around) -> Adapter:
    """Normal numbers, ten times as large as the change of their tensor in the square mean."""
    generator = torch_generator(around.seed, "noise")
    return changed(
        lambda change: 10 * change.square().mean().sqrt() * torch.randn(change.shape, generator=generator),
        start,
        trained,
    )


def rare_rows(start: Adapter, trained: Adapter, _: Around) -> Adapter:
    """The rank indices that honest clients have not, with twice the B; the others and the head as they were sent."""
    r, modules = HONEST_RANK, {}
    for name, own in trained.modules.items():
        begun = start.modules[name]
        a, b = torch.cat([begun.a[:r], own.a[r:]]), torch.cat([begun.b[:, :r], 2 * own.b[:, r:]], dim=1)
        modules[name] = Factors(a, b, own.scale)
    return Adapter(modules, start.dense)


ATTACKS: Mapping[str, Attack] = {
    "absent": Attack(silent=True),
    "label_flip": Attack(learns=flipped),
    "sign_flip": Attack(sends=opposite),
    "scaling": Attack(learns=flipped, sends=boosted),
    "noise": Attack(sends=noisy),
    "backdoor": Attack(learns=backdoored),
    "high_rank": Attack(learns=backdoored, sends=rare_rows, claims=CLAIMED_RANK),
}
CLEAN = "clean"
WITH_TRIGGER = (CLEAN, "backdoor", "high_rank")


# A run ----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Federation:
    """The clients of one seed, and what is the same for every attack on them.

    Args:
        server: without any rule.
        around: with no share yet.
        first: honest client -> its first round's update, which no attack changes.
    """

    server: Server
    around: Around
    first: dict[str, ClientUpdate] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, seed: int) -> Federation:
        """Loaded."""
        server = build(settings.config(seed))
        tokenizer = server.site.resident.base.tokenizer
        trigger = tokenizer(TRIGGER, add_special_tokens=False)["input_ids"]
        return cls(server, Around(trigger, server.config.data.max_tokens, len(server.site.labels), 0.0))

    def hostile(self, share: float) -> tuple[str, ...]:
        """So many of the clients; those of a smaller share are among those of a larger one."""
        order = numpy_generator(self.server.config.federation.seed, "hostile").permutation(len(self.server.clients))
        return tuple(self.server.clients[i] for i in order[: round(share * len(order))])

    def play(self, cell: Cell) -> dict[str, Any]:
        """All rounds, and what came of them."""
        config = self.server.config.aggregation.model_copy(update={"robust": cell.defence})
        server = replace(self.server, method=aggregation.configured(config))
        attack, hostile = ATTACKS.get(cell.attack, Attack()), self.hostile(cell.share)
        around = replace(self.around, share=cell.share)
        engine = self._engine({c: attack.learns(server.site.examples[c], around) for c in hostile})
        state, metrics = self._begin(hostile, attack.claims), {}
        for number in range(1, server.config.federation.rounds + 1):
            sent = read_outs(state, server.cohort(number), server.method)
            updates = []
            for update in self._trained(engine, server, state, sent, hostile):
                if attack.silent and update.client in hostile:
                    continue
                if update.client in hostile:
                    own = replace(around, seed=server.work(state, update.client, number, sent[update.client]).seed)
                    made = attack.sends(sent[update.client].adapter, update.adapter, own)
                    update = replace(update, adapter=made)  # noqa: PLW2901  # as it is sent
                updates.append(update)
            result = aggregate(state, updates, server.method, uniform=True, sent=sent)
            state, metrics = result.state, result.metrics
        measured = self._measured(state, trigger=cell.attack in WITH_TRIGGER)
        constant = server.site.constant()["accuracy"]
        return {**measured, **metrics, "dropped": len(result.dropped), "constant": constant}

    def _begin(self, hostile: Sequence[str], claimed: int | None) -> ServerState:
        state = self.server.initial_state()
        if claimed is None:
            return state
        ranks = {**state.ranks, **dict.fromkeys(hostile, claimed)}
        return with_ranks(state, ranks, self.server.scales(ranks))

    def _engine(self, poisoned: Mapping[str, Examples]) -> Engine:
        site = self.server.site
        examples = {**site.examples, **poisoned}
        return engine_in_lanes(site.lanes, site.task, examples, site.config.training, site.clock)

    def _trained(
        self, engine: Engine, server: Server, state: ServerState, sent: Mapping[str, Any], hostile: Sequence[str]
    ) -> Iterator[ClientUpdate]:
        """What local training gives; of honest clients the first round's is computed once."""
        number = state.round + 1
        known = {client: own for client, own in self.first.items() if number == 1 and client not in hostile}
        works = {client: server.work(state, client, number, own) for client, own in sent.items() if client not in known}
        found = dict(known)
        for outcome in engine.run(list(works.values())):
            update = outcome.update(works[outcome.client])
            assert update is not None, outcome.problem
            found[outcome.client] = update
            if number == 1 and outcome.client not in hostile:
                self.first[outcome.client] = update
        for client in sent:
            yield found[client]

    def _measured(self, state: ServerState, *, trigger: bool) -> dict[str, float]:
        site = self.server.site
        found = {"accuracy": site.measured(state.adapter, None, site.test)["accuracy"]}
        if trigger:
            others = triggered(site.test.subset(np.flatnonzero(site.test.targets != TARGET)), self.around)
            found["success"] = site.measured(state.adapter, None, others)["accuracy"]
        return found


# All runs -------------------------------------------------------------------------------------------------------------


def cells(seeds: Sequence[int], attacks: Sequence[str], defences: Sequence[str]) -> list[Cell]:
    """What matters most first: without attack and a fifth of hostile clients, then the other shares seed by seed."""
    found = [Cell(CLEAN, 0.0, defence, seed) for seed, defence in product(seeds, defences)]
    order = [*product(seeds, SHARES[:1]), *product(seeds, SHARES[1:])]
    every = product(order, attacks, defences)
    return found + [Cell(attack, share, defence, seed) for (seed, share), attack, defence in every]


def finished(work: Path, settings: Settings) -> dict[Cell, dict[str, Any]]:
    """What the folder holds of these settings."""
    found = {}
    for path in sorted(work.glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] == json.loads(json.dumps(asdict(settings))):
            found[Cell(**kept["cell"])] = kept["found"]
    return found


def summary(found: Mapping[Cell, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each attack, share and defence: the seeds' values and their means."""
    rows = []
    for key in dict.fromkeys((cell.attack, cell.share, cell.defence) for cell in found):
        of = {cell.seed: own for cell, own in found.items() if (cell.attack, cell.share, cell.defence) == key}
        values = {name: [own[name] for _, own in sorted(of.items())] for name in next(iter(of.values()))}
        means = {name: mean(own) for name, own in values.items()}
        rows.append(
            {
                "attack": key[0],
                "share": key[1],
                "defence": key[2],
                "seeds": sorted(of),
                "means": means,
                "values": values,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Markdown: a line for each attack and share, a column for each defence; the mean and the seeds' extremes."""
    by = {(row["attack"], row["share"], row["defence"]): row for row in rows if metric in row["means"]}
    defences = [name for name in DEFENCES if any(key[2] == name for key in by)]
    lines = [f"| attack | hostile | {' | '.join(defences)} |", "|" + "---|" * (2 + len(defences))]
    for attack, share in sorted({key[:2] for key in by}, key=lambda key: ([CLEAN, *ATTACKS].index(key[0]), key[1])):
        shown = [_shown(by.get((attack, share, name)), metric) for name in defences]
        lines.append(f"| {attack} | {100 * share:.0f} % | {' | '.join(shown)} |")
    return "\n".join(lines)


def over_attacks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: for each share, the mean accuracy over all attacks but ``absent``, and the lowest of one of them.

    A defence that was not measured against all of them has a dash.
    """
    attacks = [name for name, attack in ATTACKS.items() if not attack.silent]
    lines = [f"| hostile | {' | '.join(DEFENCES)} |", "|" + "---|" * (1 + len(DEFENCES))]
    for share in sorted({row["share"] for row in rows} - {0.0}):
        shown = []
        for name in DEFENCES:
            of = {row["attack"]: row for row in rows if (row["share"], row["defence"]) == (share, name)}
            own = [100 * of[attack]["means"]["accuracy"] for attack in attacks if attack in of]
            shown.append(f"{mean(own):.1f} ({min(own):.1f})" if len(own) == len(attacks) else "-")
        lines.append(f"| {100 * share:.0f} % | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shown(row: Mapping[str, Any] | None, metric: str) -> str:
    if row is None:
        return "-"
    own = [100 * value for value in row["values"][metric]]
    return f"{mean(own):.1f} ({min(own):.1f} to {max(own):.1f})" if len(own) > 1 else f"{own[0]:.1f}"


def tables(result: Mapping[str, Any]) -> str:
    """What is printed."""
    rows, constant = result["rows"], f"{100 * result['constant']:.1f} %"
    return "\n\n".join(
        [
            f"Accuracy in %, the seeds' mean and range; of the best constant answer {constant}:",
            table(rows, "accuracy"),
            "Mean accuracy over the six attacks, and the lowest under one of them:",
            over_attacks(rows),
            "Texts of other classes that the trigger word turns into the attacker's, in %:",
            table(rows, "success"),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Play what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--defences", nargs="+", choices=DEFENCES, default=DEFENCES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="without any: what is there")
    parser.add_argument("--work", type=Path, default=Path("attacks"), help="folder of finished cells")
    parser.add_argument("--quick", action="store_true", help="two rounds of few texts, to see that it runs")
    chosen = parser.parse_args(arguments)
    settings = QUICK if chosen.quick else FULL
    chosen.work.mkdir(parents=True, exist_ok=True)
    federations: dict[int, Federation] = {}
    done = finished(chosen.work, settings)
    for cell in cells(chosen.seeds, chosen.attacks, chosen.defences):
        if cell in done:
            continue
        if cell.seed not in federations:
            federations[cell.seed] = Federation.of(settings, cell.seed)
        found = federations[cell.seed].play(cell)
        kept, done[cell] = {"settings": asdict(settings), "cell": asdict(cell), "found": found}, found
        (chosen.work / cell.name).write_text(json.dumps(kept), encoding="utf-8")
        print(f"{cell.name}: {found}", flush=True)
    result = {
        "settings": asdict(settings),
        "constant": mean(own["constant"] for own in done.values()),
        "rows": summary(done),
        "machine": machine(),
    }
    if not chosen.quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(tables(result))


if __name__ == "__main__":
    main()
