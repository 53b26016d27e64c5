"""Valid inputs, as the product itself writes them, from which hostile ones are made."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.tiny import tiny
from polyrank.aggregation import build
from polyrank.config import ModelConfig
from polyrank.core import codec
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.participant import Facts
from polyrank.federation.tree import Node
from polyrank.hf.peft import folder as peft_folder
from polyrank.runs import checkpoint
from polyrank.runs.runner import run
from polyrank.site import requests
from polyrank.site.protocol import start_of
from polyrank.training.work import Outcome, Penalty, Work

MODULES = {"encoder.layer.0.query": (6, 4), "encoder.layer.0.value": (6, 4), "encoder.layer.1.query": (6, 4)}
CLIENTS = {"ann": 1, "bob": 2, "eve": 2}
RUN_FILES = (
    *("config.toml", "requested.toml", "metrics.jsonl", "clients.json", "run.json", "summary.json"),
    *("samples.json",),
)


def adapter(rank: int = 2, seed: int = 0, *, head: bool = True) -> Adapter:
    """Three modules and a head."""
    draw = torch.Generator().manual_seed(seed)
    modules = {
        name: Factors(torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw), 0.5)
        for name, (d_out, d_in) in MODULES.items()
    }
    dense = {"classifier.weight": torch.randn(2, 6, generator=draw), "classifier.bias": torch.randn(2, generator=draw)}
    return Adapter(modules, dense if head else {})


def state() -> ServerState:
    """A server after three rounds, with all that it can hold."""
    personal = {"ann": {"classifier.weight": torch.ones(2, 6)}, "a/b": {"x/y": torch.zeros(1)}}
    return ServerState(3, adapter(), CLIENTS, dict.fromkeys(CLIENTS, 0.5), personal, adapter(1, 5, head=False), 11)


def work() -> Work:
    """A client's work with everything in it."""
    return Work("ann", 4, adapter(1), 7, adapter(1, 5, head=False), penalty=Penalty(1, 0.1), scored=True)


def outcome() -> Outcome:
    """What became of it."""
    done, scores = work(), {"accuracy": 0.5, "loss": 0.7}
    return Outcome("ann", done.adapter.parts(done.trains), 12.0, {"loss": 0.7, "steps": 4}, "", scores, 0.1)


@cache
def adapter_folder() -> dict[str, bytes]:
    """A folder that we wrote."""
    with tempfile.TemporaryDirectory() as scratch:
        target = peft_folder.Target(ModelConfig(name="quickstart"), ("pets", "fruit"), ("classifier",))
        peft_folder.write(Path(scratch), adapter(), target)
        return contents(Path(scratch))


@cache
def plain_adapter_folder() -> dict[str, bytes]:
    """A folder as PEFT writes it, with patterns, and nothing of ours."""
    files = dict(adapter_folder())
    del files["polyrank.json"]
    settings = json.loads(files["adapter_config.json"])
    settings |= {"r": 4, "rank_pattern": {"layer.0.query": 2, "value": 2, "1.query": 2}, "alpha_pattern": {"value": 1}}
    settings |= {"target_modules": "all-linear", "lora_alpha": 2, "use_rslora": False, "peft_version": "0.21.2"}
    return {**files, "adapter_config.json": json.dumps({**settings, "target_modules": ["query", "value"]}).encode()}


@cache
def checkpoints() -> dict[str, bytes]:
    """The checkpoint of one round."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint.save(Path(scratch), state(), "abc")
        return contents(Path(scratch))


@cache
def run_folder() -> dict[str, bytes]:
    """A finished run's files without weights; of a run that a second one continued."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        run(tiny("federation.rounds=3"), folder)
        return {name: (folder / name).read_bytes() for name in RUN_FILES if (folder / name).is_file()}


@cache
def model_folder() -> dict[str, bytes]:
    """A BERT of a few numbers with a tokenizer of a few words."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    settings = transformers.BertConfig(vocab_size=16, max_position_embeddings=16, pad_token_id=0, **small)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "b"])}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    with tempfile.TemporaryDirectory() as scratch:
        transformers.BertModel(settings).save_pretrained(scratch)
        made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
        made.save_pretrained(scratch)
        return contents(Path(scratch))


@cache
def config_file() -> bytes:
    """A configuration with a value for every key that has one."""
    return run_folder()["config.toml"]


ROWS = [(f"the {word} sees a, {word}", label, "ann") for word, label in 4 * [("cat", "pets"), ("fig", "fruit")]]


@cache
def data_files() -> dict[str, bytes]:
    """One table in each format, and chats."""
    import pyarrow
    import pyarrow.parquet

    header = ("text", "label", "owner")
    objects = [dict(zip(header, row, strict=True)) for row in ROWS]
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": label}] for text, label, _ in ROWS]
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({key: [row[key] for row in objects] for key in header}), sink)
    commas = [",".join(header), *(f'"{text}",{label},{owner}' for text, label, owner in ROWS)]
    return {
        "data.csv": "\n".join(commas).encode(),
        "data.tsv": "\n".join("\t".join(row) for row in (header, *ROWS)).encode(),
        "data.jsonl": "\n".join(json.dumps(row) for row in objects).encode(),
        "data.json": json.dumps(objects).encode(),
        "data.parquet": sink.getvalue().to_pybytes(),
        "chats.jsonl": "\n".join(json.dumps({"messages": turn, "topic": "x"}) for turn in turns).encode(),
        "pairs.jsonl": "\n".join(json.dumps({"prompt": a, "completion": b}) for a, b, _ in ROWS).encode(),
    }


def frames(*values: Any) -> list[bytes]:  # Any: what `requests.framed` takes
    """Messages of a site's socket as they travel."""
    made = [requests.framed(value) for value in values]
    return [start_of(*frame) + frame[1] for frame in made]


@cache
def site_requests() -> list[bytes]:
    """Both questions."""
    return frames(requests.Asked("ann"), work())


@cache
def site_replies() -> list[bytes]:
    """All answers."""
    facts = Facts(12, (6, 6), ("pets", "fruit"), {"q": (6, 4)}, {"too long": 1})
    return frames(facts, outcome(), requests.Failed("ConfigError", "there is no client 'bob' here"))


@cache
def tree_messages() -> dict[str, bytes]:
    """A method's name -> an edge's sums, for each kind of sums."""
    before, made = state_of_tree(), {}
    for name in ("replication", "flexlora", "flora", "tempered"):
        edge = Node(before, build(name), CLIENTS)
        for client in ("ann", "bob"):
            edge.add(ClientUpdate(client, adapter(CLIENTS[client], 3), 2.0))
        made[name] = edge.pack()
    return made


def state_of_tree() -> ServerState:
    """A server before a round in which all take part."""
    return ServerState(3, adapter(), CLIENTS, dict.fromkeys(CLIENTS, 0.5))


def packed_work() -> bytes:
    """A client's work as one piece."""
    return codec.dumps(work())


def arrays_of(records: Any) -> tuple[dict[str, Any], dict[str, bytes]]:  # Any: Flower's records
    """Flower's records as a description for JSON and the bytes of each array."""
    about: dict[str, Any] = {"configs": {}, "metrics": {}, "arrays": {}}
    pieces: dict[str, bytes] = {}
    for name, record in records.config_records.items():
        about["configs"][name] = dict(record)
    for name, record in records.metric_records.items():
        about["metrics"][name] = dict(record)
    for name, record in records.array_records.items():
        about["arrays"][name] = {}
        for key, array in record.items():
            file = f"{len(pieces)}.npy"
            pieces[file] = array.data
            about["arrays"][name][key] = [array.dtype, list(array.shape), array.stype, file]
    return about, pieces


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
