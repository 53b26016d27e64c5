"""PolyRank on Flower: the same rounds, with clients on Flower's nodes.

``serverapp = "polyrank.flower:server_app"`` and ``clientapp = "polyrank.flower:client_app"`` are ready to use;
`make_server_app` and `make_client_app` take data and models of your own, `RankStrategy` is for a ServerApp of your own.
Needs the extra ``flower``.
"""

from __future__ import annotations

from polyrank.flower.client import make_client_app
from polyrank.flower.node_ranks import declare_rank
from polyrank.flower.server import make_server_app
from polyrank.flower.strategy import RankStrategy

server_app = make_server_app()
client_app = make_client_app()

__all__ = ["RankStrategy", "client_app", "declare_rank", "make_client_app", "make_server_app", "server_app"]
