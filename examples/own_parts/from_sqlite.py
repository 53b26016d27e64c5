"""A Flower client whose texts are in a database of the site's.

``clientapp = "from_sqlite:app"`` in the app's pyproject.toml; at each site
``--node-config 'client="north" lora-rank=5 sqlite="/data/notes.db"'``.
"""

from __future__ import annotations

import csv
import sqlite3
import tempfile
from pathlib import Path

from polyrank import Config
from polyrank.core.errors import DataError
from polyrank.federation.participant import Participant
from polyrank.flower import make_client_app
from polyrank.flower.client import participant
from polyrank.flower.held import NodeConfig

QUERY = "SELECT text, label FROM notes WHERE label IS NOT NULL ORDER BY rowid"


def site(config: Config, node: NodeConfig) -> Participant:
    """What a node trains with: the rows of its database, under the federation's names of columns.

    Raises:
        DataError: there is no such database, or it has no such table; nothing of its content is said.
    """
    if "sqlite" not in node:
        return participant(config, node)
    text, label = config.data.text, config.data.label
    with tempfile.TemporaryDirectory() as folder:  # its owner's alone, and gone when the data are read
        file = Path(folder) / "notes.csv"
        try:
            with sqlite3.connect(f"file:{node['sqlite']}?mode=ro", uri=True) as database:
                rows = database.execute(QUERY).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"the site's database cannot be read: {type(error).__name__}") from None
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([[text, label], *rows])
        return participant(config, {**node, "data-train": str(file), "data-quoting": "multiline"})


app = make_client_app(site)
