"""What is parsed, each by its public entry point: how a hostile input is made, what reads it, what it must give.

An input is always files in a folder; a message is the file ``message``. Reading gives a sane value or raises what the
entry point documents.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz import corpus, mutate
from benchmarks.fuzz.mutate import Files
from polyrank import config as configuration
from polyrank.aggregation import build
from polyrank.config import ModelConfig
from polyrank.core import cache as kept
from polyrank.core import codec
from polyrank.core.adapter import Adapter
from polyrank.core.errors import PolyRankError
from polyrank.core.state import ServerState
from polyrank.data.sources import Writing, load
from polyrank.federation.participant import Facts, Participant
from polyrank.federation.tree import Node
from polyrank.hf.load import load_base
from polyrank.hf.peft import folder as peft_folder
from polyrank.merging.merge import merge
from polyrank.report import page
from polyrank.report.runs import find, grouped
from polyrank.report.statistics import compare
from polyrank.runs import checkpoint
from polyrank.site import requests
from polyrank.site.daemon import attend
from polyrank.site.protocol import Deadline, receive
from polyrank.training.tuning import remembered
from polyrank.training.work import Outcome, Work

JSON_FILES: Mapping[str, mutate.Change] = {
    **{".json": mutate.json_bytes, ".jsonl": mutate.json_bytes, ".toml": mutate.toml},
    **{".safetensors": mutate.safetensors},
}
TABLES: Mapping[str, mutate.Change] = {**JSON_FILES, ".csv": mutate.table, ".tsv": mutate.table}
MESSAGE = "message"


class NotSaneError(AssertionError):
    """A hostile input was accepted, and what it gave makes no sense."""


def expect(sane: bool, why: str) -> None:
    """Raise where an accepted value makes no sense."""
    if not sane:
        raise NotSaneError(why)


@dataclass(frozen=True)
class Target:
    """One thing that is parsed.

    Args:
        make: an input.
        read: its folder, and one that may be written to.
        share: of the inputs, relative to the other targets; slow ones have less.
        refuses: what the entry point documents.
        grows: bytes that an input may take at most.
    """

    make: Callable[[Random], Files]
    read: Callable[[Path, Path], object]
    share: float = 1.0
    refuses: tuple[type[Exception], ...] = (PolyRankError,)
    grows: int = 64 * 2**20


def _one_of(random: Random, pieces: Any, change: mutate.Change) -> Files:  # Any: bytes by name or in order
    found = list(pieces.values()) if isinstance(pieces, Mapping) else pieces
    return {MESSAGE: change(random, random.choice(found))}


# Adapters ------------------------------------------------------------------------------------------------------------


def _adapters(random: Random) -> Files:
    valid = random.choice((corpus.adapter_folder, corpus.plain_adapter_folder))()
    return mutate.files(random, valid, JSON_FILES)


def _sane_adapter(found: Adapter) -> None:
    for name, factors in found.modules.items():
        expect(bool(name) and name.isprintable() and not {"/", "\\", " "} & set(name), f"module {name!r}")
        expect(factors.rank > 0 and math.isfinite(factors.scale), f"{name} has rank {factors.rank}")
        expect(factors.a.dtype.is_floating_point and factors.b.dtype.is_floating_point, f"{name} is {factors.a.dtype}")


def _read_adapter(folder: Path, _out: Path) -> None:
    try:
        _sane_adapter(peft_folder.read(folder))
    finally:
        target = peft_folder.read_target(folder)
        expect(all(isinstance(label, str) for label in target.labels), f"labels {target.labels!r:.80}")
        expect(all(isinstance(name, str) for name in target.head_modules), f"head {target.head_modules!r:.80}")


def _two_adapters(random: Random) -> Files:
    found = {f"a/{name}": data for name, data in _adapters(random).items()}
    return found | {f"b/{name}": data for name, data in corpus.adapter_folder().items()}


def _merge(folder: Path, out: Path) -> None:
    merged = merge([folder / "a", folder / "b"], allow_different_bases=True)
    merged.save(out / "merged")
    _sane_adapter(peft_folder.read(out / "merged"))


def _load_model(folder: Path, _out: Path) -> None:
    base = load_base(ModelConfig(name=str(folder)), ("pets", "fruit"))
    expect(type(base.model).__module__.startswith(("transformers.", "polyrank.")), f"code of {type(base.model)}")


# Runs ----------------------------------------------------------------------------------------------------------------


def _checkpoint(random: Random) -> Files:
    """With a checksum that is right, most of the time: whoever changes a checkpoint can write one, too."""
    valid = corpus.checkpoints()
    if random.random() < 0.4:
        return mutate.files(random, valid, JSON_FILES)
    text, tensors = sorted(valid)
    about, data = json.loads(valid[text]), valid[tensors]
    if random.random() < 0.8:
        about["state"] = mutate.json_value(random, about["state"])
    else:
        data = mutate.safetensors(random, data)
    with suppress(TypeError, KeyError):
        about["sha256"] = checkpoint._checksum({key: about[key] for key in about if key != "sha256"}, data)
    return {text: mutate.written(about), tensors: data}


def _read_checkpoint(folder: Path, _out: Path) -> None:
    found = checkpoint.load(folder)
    expect(isinstance(found, ServerState) and isinstance(found.round, int), f"round {found.round!r}")
    expect(all(isinstance(rank, int) for rank in found.ranks.values()), f"ranks {found.ranks!r:.80}")


def _read_run(folder: Path, out: Path) -> None:
    groups = grouped(find([folder]))
    page.write(out / "report.html", groups, compare(groups))
    expect(mutate.SCRIPT not in (out / "report.html").read_text(encoding="utf-8"), "a script of the run's in the page")


def _read_config(folder: Path, _out: Path) -> None:
    found = configuration.load(folder / "config.toml")
    (folder / "config.toml").write_text(configuration.dump(found), encoding="utf-8")
    expect(configuration.load(folder / "config.toml") == found, "another configuration when it is written and read")


def _override(folder: Path, _out: Path) -> None:
    configuration.load(None, [(folder / MESSAGE).read_bytes().decode("utf-8", "replace")])


def _choice(random: Random) -> Files:
    value = {"chosen": {"engine": "batched", "lanes": 2}, "reason": "", "of": {"model": "x"}, "free": 5, "when": "now"}
    return {f"choices/{kept.digest({'model': 'x'})}.json": mutate.json_bytes(random, mutate.written(value))}


def _recall(folder: Path, _out: Path) -> None:
    os.environ[kept.CACHE] = str(folder)
    remembered.everything()
    training = configuration.TrainingConfig()
    if found := remembered.recall(training, {"model": "x"}):
        remembered.filled(training, found)


def _data(random: Random) -> Files:
    name = random.choice(sorted(corpus.data_files()))
    return mutate.files(random, {name: corpus.data_files()[name]}, TABLES)


def _read_data(folder: Path, _out: Path) -> None:
    (path,) = [path for path in folder.iterdir() if path.name in corpus.data_files()] or [folder / "data.csv"]
    writes = path.name in ("chats.jsonl", "pairs.jsonl")
    split = load(str(path), writing=Writing() if writes else None, labelled=not writes)
    for part in (split.train, split.test):
        expect(len(part) > 0, "no rows")
        expect(all(isinstance(text, str) for text in part.texts), "a text that is none")
        if part.labels is not None and part.label_names:
            expect(
                int(part.labels.min()) >= 0 and int(part.labels.max()) < len(part.label_names), "a label of no class"
            )


# Messages ------------------------------------------------------------------------------------------------------------


def _framed(random: Random, data: bytes) -> bytes:
    """A frame of a site's socket whose lengths are right, most of the time."""
    size, body = int.from_bytes(data[4:8], "big"), data[16:]
    header, rest = body[:size], body[size:]
    kind = random.randrange(10)
    if kind < 6:
        header = mutate.json_bytes(random, header)
    elif kind < 8 and rest:
        rest = mutate.safetensors(random, rest)
    else:
        return mutate.raw(random, data)
    return data[:4] + len(header).to_bytes(4, "big") + len(rest).to_bytes(8, "big") + header + rest


class _Idle(Participant):
    """Takes what it is asked to do, and does nothing."""

    def facts(self, client: str) -> Facts:
        return Facts(1, (1,), names=(client,))

    def do(self, work: Work) -> Outcome:
        _sane_work(work)
        return Outcome(work.client, problem="nothing is trained here")


def _sane_work(work: Work) -> None:
    expect(isinstance(work.client, str) and work.round >= 0, f"round {work.round!r} of {work.client!r}")
    expect(all(math.isfinite(factors.scale) for factors in work.adapter.modules.values()), "a scale")


def _attend(folder: Path, _out: Path) -> None:
    """The daemon answers whatever came, in lines of printable characters."""
    said: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall((folder / MESSAGE).read_bytes())
        ours.shutdown(socket.SHUT_WR)
        attend(theirs, _Idle(), said.append, 5.0)
        theirs.close()
        frame = receive(ours, Deadline(5))
    expect(all(line.isprintable() and len(line) < 1100 for line in said), f"it says {said!r:.200}")
    if frame is not None:
        requests.read_reply(*frame)


def _read_reply(folder: Path, _out: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall((folder / MESSAGE).read_bytes())
        ours.close()
        if (frame := receive(theirs, Deadline(5))) is not None:
            requests.read_reply(*frame)


def _read_packed(folder: Path, _out: Path) -> None:
    _sane_work(codec.loads(Work, (folder / MESSAGE).read_bytes()))


def _read_tensors(folder: Path, _out: Path) -> None:
    data = (folder / MESSAGE).read_bytes()
    found = codec.from_bytes(data)
    expect(sum(tensor.nbytes for tensor in found.values()) <= len(data), "more bytes than came")


@cache
def _before() -> ServerState:
    return corpus.state_of_tree()


def _tree_message(random: Random) -> Files:
    name = random.choice(sorted(corpus.tree_messages()))
    return {name: mutate.packed(random, corpus.tree_messages()[name])}


def _fold(folder: Path, _out: Path) -> None:
    """A message counts whole or not at all, and what comes of the round is an adapter as it was before."""
    (path,) = folder.iterdir()
    root = Node(_before(), build(path.name), corpus.CLIENTS)
    root.fold(path.read_bytes())
    after = root.finish().state.adapter
    shapes = {name: tensor.shape for name, tensor in _before().adapter.tensors()}
    expect({name: tensor.shape for name, tensor in after.tensors()} == shapes, "an adapter of other shapes")
    expect(after.first_not_finite() is None, "an adapter that is not finite")


TARGETS: dict[str, Target] = {
    "adapter folder": Target(_adapters, _read_adapter),
    "merging": Target(_two_adapters, _merge, 0.5),
    "model folder": Target(lambda r: mutate.files(r, corpus.model_folder(), JSON_FILES), _load_model, 0.1, grows=2**30),
    "safetensors": Target(
        lambda r: {MESSAGE: mutate.safetensors(r, corpus.adapter_folder()["adapter_model.safetensors"])}, _read_tensors
    ),
    "checkpoint": Target(_checkpoint, _read_checkpoint),
    "run folder": Target(lambda r: mutate.files(r, corpus.run_folder(), JSON_FILES), _read_run, 0.15),
    "configuration": Target(lambda r: {"config.toml": mutate.toml(r, corpus.config_file())}, _read_config, 0.5),
    "override": Target(
        lambda r: {MESSAGE: mutate.toml(r, r.choice([b"training.lr = 1e-3", b"data.options = {a = 1}", b"x.y.z = 1"]))},
        _override,
    ),
    "remembered choice": Target(_choice, _recall),
    "data file": Target(_data, _read_data),
    "site request": Target(lambda r: _one_of(r, corpus.site_requests(), _framed), _attend),
    "site reply": Target(lambda r: _one_of(r, corpus.site_replies(), _framed), _read_reply),
    "packed work": Target(lambda r: {MESSAGE: mutate.packed(r, corpus.packed_work())}, _read_packed),
    "tree message": Target(_tree_message, _fold),
}
