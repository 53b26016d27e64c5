"""The model that a run has come to: one for all, or, where something stays with the clients, one of each."""

from __future__ import annotations

from polyrank import aggregation
from polyrank.aggregation import Download
from polyrank.config import Config
from polyrank.core.adapter import Adapter
from polyrank.core.errors import RunFolderError, did_you_mean
from polyrank.core.state import ServerState
from polyrank.federation.round import joined, personalise, read_out

_WORDS = {"a": "A", "b": "B", "head": "head"}


def stay_with_clients(config: Config) -> tuple[str, ...]:
    """What of its model every client keeps to itself (``"B"``, ``"head"``); nothing where all have one model."""
    method = aggregation.configured(config.aggregation)
    keeps = method.keeps(local_head=config.federation.head == "local")
    return tuple(_WORDS[part] for part in sorted(keeps))


def exported(state: ServerState, config: Config, client: str | None = None) -> Adapter:
    """The whole model as one adapter; see `model_of`.

    Raises:
        RunFolderError: as `model_of`.
    """
    own = model_of(state, config, client)
    return joined(own.adapter, own.base_change)


def model_of(state: ServerState, config: Config, client: str | None = None) -> Download:
    """The global model, or the client's own where the clients have models of their own.

    A client's own is what it was evaluated with: what all share as it is now, cut to the client's rank, and what stays
    with the client as it left it in its last round.

    Args:
        state: of a checkpoint.
        config: of the run.
        client: whose; None for the global model.

    Raises:
        RunFolderError: something stays with the clients and no client is named, or one is named and nothing stays; the
            client is unknown, or has not trained yet.
    """
    stays = " and ".join(stay_with_clients(config))
    if client is None:
        if not stays:
            return Download(state.adapter, state.base_change)
        raise RunFolderError(
            f"each client keeps its own {stays} ({_why(config)}), so there is no one model; name a client, "
            f"such as --client {next(iter(sorted(state.personal)), 'NAME')}"
        )
    if not stays:
        raise RunFolderError(
            f"--client {client}: nothing stays with the clients of this run ({_why(config)}), and all have one model; "
            "leave --client out (polyrank export --rank cuts it to the client's rank)"
        )
    if client not in state.ranks:
        raise RunFolderError(f"--client {client}: no client has this name; {did_you_mean(client, sorted(state.ranks))}")
    if client not in state.personal:
        trained = ", ".join(sorted(state.personal)[:5]) or "nobody"
        raise RunFolderError(
            f"--client {client}: it took part in none of the {state.round} rounds and has no {stays} of its own yet; "
            f"those that have: {trained}"
        )
    method = aggregation.configured(config.aggregation)
    return personalise(state, client, read_out(state, client, method))


def _why(config: Config) -> str:
    return f"aggregation.method {config.aggregation.method}, federation.head {config.federation.head}"
