"""A ready Flower app: a folder that `flwr run` takes, made from a configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomlkit

from polyrank.config import Config
from polyrank.core.errors import DataError, FlowerError
from polyrank.federation.population import DEFAULT_CLIENTS
from polyrank.flower.server import Settings
from polyrank.site.switches import SWITCHES
from polyrank.tasks import settled

NAME = "polyrank-federation"
README = """# A federation of PolyRank on Flower

`pyproject.toml` says everything. The sections under `[tool.flwr.app.config]` are PolyRank's configuration, where lists
and tables stand in quotes; the keys above them are in PolyRank's docs/flower.md. A run can change what stands there,
`flwr run . --run-config 'federation.rounds=50 ranks.levels="[4, 8]"'`, and nothing else: Flower refuses other keys.

## On this machine, simulated

    {export}
    flwr run . --stream

Flower simulates two nodes unless told otherwise (`--federation-config 'num-supernodes={clients}'`), and they share the
{clients} clients. It starts a SuperLink in the background, which stays: `pkill -f flower-superlink`. `flwr run` ends
with 0 although a run failed: `flwr ls` says how it ended. The results are in the run folder: `polyrank report {out}`.

## Real nodes on this machine

    flower-superlink --insecure --port 18443
    flower-supernode --insecure --superlink 127.0.0.1:18443 --port 19200 \\
      --node-config 'client="site-a" lora-rank=5 data-train="/path/of/a.csv"'
    flower-supernode --insecure --superlink 127.0.0.1:18443 --port 19201 \\
      --node-config 'client="site-b" lora-rank=20 data-train="/path/of/b.csv"'

and `flwr run . deployment --stream`, where `$FLWR_HOME/config.toml` has

    [superlink.deployment]
    address = "127.0.0.1:18443"
    insecure = true

Set `min-nodes` to the number of nodes, and `data.train` to data of the server's own: it needs a test set, and a
classifier's labels. The paths in `pyproject.toml` are the server's.

## With TLS and keys

    polyrank flower certificates tls --nodes 2

and PolyRank's docs/deployment.md.
"""
LICENSE = "Put the licence of your app here. PolyRank itself is licensed under Apache-2.0.\n"


def write(folder: Path, config: Config, out: str = "runs/flower") -> list[Path]:
    """Write the app.

    Args:
        folder: new, or empty.
        config: of the federation. Relative paths of files that are there become absolute: the ServerApp runs in the
            folder in which somebody once started the SuperLink.
        out: its run folder on the server; a relative one is in the app.

    Raises:
        FlowerError: there is something in the folder.
        DataError: what is learned is not said, and the data cannot tell it here.
    """
    if folder.exists() and not folder.is_dir():
        raise FlowerError(f"{folder} is a file; name a new folder for the app, and the configuration after it")
    if folder.exists() and any(folder.iterdir()):
        raise FlowerError(f"{folder} is not empty; name a new folder")
    config = _settled(config)
    folder.mkdir(parents=True, exist_ok=True)
    config = _found_from_anywhere(config)
    out = str((folder / out).absolute())
    federation = config.federation
    if federation.clients is None and config.data.partition != "by-column":  # said, so that a run may change it
        federation = federation.model_copy(update={"clients": DEFAULT_CLIENTS})
        config = config.model_copy(update={"federation": federation})
    files = {
        "pyproject.toml": tomlkit.dumps(_project(config, out)),
        "README.md": README.format(export=_export(), out=out, clients=federation.clients or DEFAULT_CLIENTS),
        "LICENSE": LICENSE,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def run_config(config: Config) -> dict[str, dict[str, bool | float | int | str]]:
    """The configuration as Flower's run configuration holds it: by section, lists and tables as TOML in a string.

    All that is set, since Flower lets a run change no key that the app does not name.
    """
    return {
        section: {
            key: value if isinstance(value, bool | float | int | str) else _inline(value)
            for key, value in values.items()
            if value is not None
        }
        for section, values in config.model_dump().items()
    }


def _settled(config: Config) -> Config:
    """The configuration with its task: the app names every key, so no task's defaults would fill what is not set."""
    try:
        return settled(config)
    except DataError as error:
        raise DataError(
            f"{error}. The app says what is learned, which the data would tell; where they are not on this machine set "
            "task.name: classification, or causal-lm for a model that writes"
        ) from error


def _found_from_anywhere(config: Config) -> Config:
    """The configuration with absolute paths of the files and folders that it names, where they are there."""

    def absolute(name: str | None) -> str | None:
        return str(Path(name).absolute()) if name and Path(name).exists() else name

    data = config.data.model_copy(update={"train": absolute(config.data.train), "test": absolute(config.data.test)})
    model = config.model.model_copy(update={"name": absolute(config.model.name)})
    return config.model_copy(update={"data": data, "model": model})


def _export() -> str:
    """The switches for a shell, in lines of README's width."""
    return "\n    ".join(
        "export " + " ".join(f"{name}={value}" for name, value in list(SWITCHES.items())[i : i + 2])
        for i in range(0, len(SWITCHES), 2)
    )


def _settings(out: str) -> dict[str, Any]:  # Any: Flower's values
    """All of them, as well."""
    return {name.replace("_", "-"): value for name, value in asdict(Settings(out=out)).items()}


def _inline(value: Any) -> str:  # Any: a list or a table
    item = tomlkit.inline_table() if isinstance(value, dict) else tomlkit.item(value)
    if isinstance(value, dict):
        item.update(value)
    return str(item.as_string())


def _project(config: Config, out: str) -> dict[str, Any]:  # Any: TOML values
    return {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": {
            "name": NAME,
            "version": "1.0.0",
            "description": "Federated LoRA fine-tuning with a rank per client",
            "license": {"file": "LICENSE"},
            "dependencies": ["flwr>=1.41,<1.43"],
        },
        "tool": {
            # Flower has uv install what an app depends on, anew for each run and before what is installed already;
            # an app of ours needs PolyRank and Flower, which are there, so there is nothing to look for
            "uv": {"override-dependencies": ["flwr; python_version < '3'"]},
            "flwr": {
                "app": {
                    "publisher": "polyrank",
                    "fab-format-version": 1,
                    "flwr-version-target": "1.41.0",
                    "components": {
                        "serverapp": "polyrank.flower:server_app",
                        "clientapp": "polyrank.flower:client_app",
                    },
                    "config": {**_settings(out), **run_config(config)},
                }
            },
        },
    }
