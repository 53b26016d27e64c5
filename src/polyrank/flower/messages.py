"""What travels between server and clients in a round: one task, one reply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import FlowerError
from polyrank.core.state import OWN, ClientUpdate
from polyrank.flower.records import from_record, shapes_of, shown, to_record
from polyrank.site.worker import Task
from polyrank.tasks.metric import Metric
from polyrank.training.work import Job, Penalty

ADAPTER, BASE_CHANGE, TASK, REPLY, METRICS = "adapter", "base-change", "task", "reply", "metrics"
MEASURED = ("loss", "steps", "seconds")
"""What every client measures in training."""
TRAINED = Metric("training", "training", "lower")
"""How such a number is checked: finite and not negative."""


def task(job: Job, *, token: str, config: str, wire: str) -> RecordDict:
    """A job for the client's node: the adapter at the client's own rank.

    Args:
        job: of the engine.
        token: of this request; the reply must have it.
        config: the federation's resolved configuration, TOML.
        wire: dtype of tensors.
    """
    about: dict[str, Any] = {
        "token": token,
        "client": job.client,
        "round": job.round,
        "seed": job.seed,
        "trains": sorted(job.trains),
        "penalty": asdict(job.penalty) if job.penalty else None,
        "adapter": _layout(job.adapter),
        "base_change": _layout(job.base_change) if job.base_change else None,
    }
    records = RecordDict({TASK: ConfigRecord({"about": json.dumps(about), "config": config, "wire": wire})})
    records[ADAPTER] = to_record(dict(job.adapter.tensors()), wire)
    if job.base_change:
        records[BASE_CHANGE] = to_record(dict(job.base_change.tensors()), "float32")
    return records


def read_task(records: RecordDict) -> tuple[Task, str, str, str]:
    """The task, its token, the configuration and the dtype of tensors."""
    record = records.config_records[TASK]
    about, wire = json.loads(str(record["about"])), str(record["wire"])
    change = None
    if about["base_change"] is not None:
        change = _adapter(records.array_records[BASE_CHANGE], about["base_change"], "float32")
    wanted = Task(
        about["client"],
        about["round"],
        _adapter(records.array_records[ADAPTER], about["adapter"], wire),
        about["seed"],
        change,
        frozenset(about["trains"]),
        Penalty(**about["penalty"]) if about["penalty"] else None,
    )
    return wanted, about["token"], str(record["config"]), wire


def reply(
    update: ClientUpdate,
    trained: frozenset[str],
    *,
    token: str,
    wire: str,
    seconds: float,
    scores: Mapping[str, float] | None = None,
) -> RecordDict:
    """What was trained, and nothing else.

    Args:
        update: after local training.
        trained: the parts to send.
        token: of the request.
        wire: dtype of tensors.
        seconds: that the training took.
        scores: of what was sent, on the client's own test set.
    """
    numbers = {name: float(value) for name, value in update.metrics.items()} | {"seconds": seconds}
    numbers |= {f"{OWN}{name}": value for name, value in (scores or {}).items()}
    return RecordDict(
        {
            ADAPTER: to_record(update.adapter.parts(trained), wire),
            REPLY: ConfigRecord({"token": token, "client": update.client}),
            METRICS: MetricRecord({**numbers, "weight": float(update.weight)}),
        }
    )


def read_reply(
    records: RecordDict, job: Job, *, token: str, wire: str, examples: int, metrics: Sequence[Metric]
) -> ClientUpdate:
    """The update of a reply.

    Args:
        records: what came.
        job: what was asked for.
        token: of the request.
        wire: dtype of tensors.
        examples: that the client said it has, which is its weight.
        metrics: of the task; what a client scored itself is one of them, within its bounds.

    Raises:
        FlowerError: it is no reply to this request, or anything in it is not what was asked for.
    """
    try:
        about, numbers = records.config_records[REPLY], dict(records.metric_records[METRICS])
        arrays = records.array_records[ADAPTER]
    except KeyError as error:
        raise FlowerError(f"the reply has no record {error}") from None
    if about.get("token") != token:
        raise FlowerError("the reply belongs to another request")
    if about.get("client") != job.client:
        raise FlowerError(f"the reply is of {shown(about.get('client'))}, expected {job.client!r}")
    weight = numbers.pop("weight", None)
    if weight != examples:
        raise FlowerError(f"its weight is {shown(weight)}, expected its number of examples, {examples}")
    tensors = from_record(arrays, shapes_of(job.adapter.parts(job.trains)), wire)
    scored = {f"{OWN}{metric.name}": metric for metric in metrics}
    found = {
        name: _measured(name, numbers[name], metric)
        for name, metric in {**dict.fromkeys(MEASURED, TRAINED), **scored}.items()
        if name in numbers
    }
    if missing := [name for name in MEASURED if name not in found]:
        raise FlowerError(f"the reply does not say its {' and '.join(missing)}")
    return ClientUpdate(job.client, job.adapter.replaced(tensors), float(examples), found)


def _measured(name: str, value: object, metric: Metric) -> float:
    """A number that a client may have measured: finite, and within the metric's bounds."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise FlowerError(f"its {name} is beyond any float, expected a finite number") from None
        if metric.allows(number):
            return number
    raise FlowerError(f"its {name} is {shown(value)}, expected {metric.bounds}")


def _layout(adapter: Adapter) -> dict[str, Any]:
    return {
        "modules": {n: [tuple(f.a.shape), tuple(f.b.shape), f.scale] for n, f in adapter.modules.items()},
        "dense": {name: tuple(tensor.shape) for name, tensor in adapter.dense.items()},
    }


def _adapter(record: ArrayRecord, layout: dict[str, Any], wire: str) -> Adapter:
    shapes = {f"{n}.a": tuple(a) for n, (a, _, _) in layout["modules"].items()}
    shapes |= {f"{n}.b": tuple(b) for n, (_, b, _) in layout["modules"].items()}
    shapes |= {name: tuple(shape) for name, shape in layout["dense"].items()}
    tensors = from_record(record, shapes, wire)
    modules = {n: Factors(tensors[f"{n}.a"], tensors[f"{n}.b"], s) for n, (_, _, s) in layout["modules"].items()}
    return Adapter(modules, {name: tensors[name] for name in layout["dense"]})
