"""Tasks and replies as headers and bodies of the protocol, checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyrank.core import codec, errors
from polyrank.core.adapter import Adapter
from polyrank.core.errors import PolyRankError, SiteError
from polyrank.core.state import ClientUpdate
from polyrank.site.worker import Facts, Task
from polyrank.training.work import Penalty

Frame = tuple[dict[str, Any], bytes]

T = TypeVar("T", bound=BaseModel)


Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Layout(_Message):
    scales: dict[str, float]
    dense: list[str]


class _Penalty(_Message):
    kept: Count
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FactsRequest(_Message):
    """What does the client hold?"""

    kind: Literal["facts"]
    client: str

    @property
    def what(self) -> str:
        return f"facts of {self.client}"


class _WithAdapters(_Message):
    """About a client's adapter, whose tensors are in the body."""

    client: str
    adapter: _Layout
    base_change: _Layout | None


class TrainRequest(_WithAdapters):
    """One task."""

    kind: Literal["train"]
    round: Count
    seed: int
    trains: list[Literal["a", "b", "head"]]
    penalty: _Penalty | None

    @property
    def what(self) -> str:
        return f"round {self.round}, training {self.client}"


class ScoreRequest(_WithAdapters):
    """An adapter to be scored."""

    kind: Literal["score"]

    @property
    def what(self) -> str:
        return f"scoring for {self.client}"


Request = FactsRequest | TrainRequest | ScoreRequest
_REQUESTS: Mapping[str, type[Request]] = {"facts": FactsRequest, "train": TrainRequest, "score": ScoreRequest}


class _Update(_Message):
    client: str
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    metrics: dict[str, float | int]
    adapter: _Layout


class _Facts(_Message):
    examples: Count
    labels: list[Count]
    parameters: dict[str, tuple[Count, Count]]
    names: list[str]
    base: dict[str, str] = {}


class _Scores(_Message):
    scores: Annotated[dict[Annotated[str, Field(max_length=100)], float], Field(max_length=100)]


class _Error(_Message):
    kind: str
    message: str


def _adapters(adapter: Adapter, base_change: Adapter | None) -> tuple[dict[str, Any], bytes]:
    tensors = codec.tensors_of(adapter, "adapter")
    about: dict[str, Any] = {"adapter": codec.describe(adapter), "base_change": None}
    if base_change is not None:
        tensors |= codec.tensors_of(base_change, "base_change")
        about["base_change"] = codec.describe(base_change)
    return about, codec.to_bytes(tensors)


def facts_request(client: str) -> Frame:
    """As `Worker.facts`."""
    return {"kind": "facts", "client": client}, b""


def train_request(task: Task) -> Frame:
    """As `Worker.train`."""
    about, body = _adapters(task.adapter, task.base_change)
    penalty = None if task.penalty is None else {"kept": task.penalty.kept, "weight": task.penalty.weight}
    header = {"client": task.client, "round": task.round, "seed": task.seed, "trains": sorted(task.trains)}
    return {"kind": "train", **header, "penalty": penalty, **about}, body


def score_request(client: str, adapter: Adapter, base_change: Adapter | None) -> Frame:
    """As `Worker.score`."""
    about, body = _adapters(adapter, base_change)
    return {"kind": "score", "client": client, **about}, body


def read_request(header: Mapping[str, Any]) -> Request:
    """What is asked for; the body is read by `adapters_of`.

    Raises:
        SiteError: it is none of the requests, or a part of it is missing, unknown or of another type.
    """
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in _REQUESTS:
        raise SiteError(f"the request is of the kind {repr(kind)[:60]}; expected one of {', '.join(_REQUESTS)}")
    return _parsed(_REQUESTS[kind], header, f"the {kind} request")


def adapters_of(request: _WithAdapters, body: bytes) -> tuple[Adapter, Adapter | None]:
    """The adapter and the base change of a request.

    Raises:
        AdapterError: the body does not hold the tensors that the header describes.
    """
    tensors = codec.from_bytes(body)
    change = request.base_change
    return (
        codec.adapter_of(request.adapter.model_dump(), tensors, "adapter"),
        None if change is None else codec.adapter_of(change.model_dump(), tensors, "base_change"),
    )


def task_of(request: TrainRequest, body: bytes) -> Task:
    """The task.

    Raises:
        AdapterError: as `adapters_of`.
    """
    adapter, base_change = adapters_of(request, body)
    penalty = None if request.penalty is None else Penalty(request.penalty.kept, request.penalty.weight)
    trains = frozenset[str](request.trains)
    return Task(request.client, request.round, adapter, request.seed, base_change, trains, penalty)


def facts_reply(facts: Facts) -> Frame:
    """The answer to `facts_request`."""
    shapes = {name: list(shape) for name, shape in facts.parameters.items()}
    labels = {"labels": list(facts.labels), "names": list(facts.names)}
    return {"facts": {"examples": facts.examples, **labels, "parameters": shapes, "base": dict(facts.base)}}, b""


def update_reply(update: ClientUpdate) -> Frame:
    """The answer to `train_request`."""
    about = {"client": update.client, "weight": update.weight, "metrics": dict(update.metrics)}
    body = codec.to_bytes(codec.tensors_of(update.adapter, "adapter"))
    return {"update": {**about, "adapter": codec.describe(update.adapter)}}, body


def scores_reply(scores: Mapping[str, float]) -> Frame:
    """The answer to `score_request`: a value of each metric of the task."""
    return {"scores": dict(scores)}, b""


def error_reply(error: Exception, what: str) -> Frame:
    """What went wrong, to be raised again on the other side: as it was if a user can mend it, else as a `SiteError`."""
    if isinstance(error, PolyRankError):
        return {"error": {"kind": type(error).__name__, "message": str(error)}}, b""
    # not its text: it may quote the site's data, and who asked may pass it on
    message = f"the site failed at {what}: {type(error).__name__} (its log has the traceback; it goes on)"
    return {"error": {"kind": "SiteError", "message": message}}, b""


def raise_error(header: Mapping[str, Any]) -> None:
    """Nothing, unless the reply is an error.

    Raises:
        PolyRankError: of the kind that the site raised.
    """
    if "error" in header:
        found = _parsed(_Error, header["error"], "the error reply")
        kind = getattr(errors, found.kind, SiteError)
        known = isinstance(kind, type) and issubclass(kind, PolyRankError)
        raise (kind if known else SiteError)(found.message)


def read_facts(header: Mapping[str, Any], body: bytes) -> Facts:  # noqa: ARG001  # as the others
    """What `facts_reply` says.

    Raises:
        SiteError: it says something else.
    """
    found = header.get("facts")
    if not isinstance(found, dict):
        raise SiteError(_instead("facts", header))
    said = _parsed(_Facts, found, "the facts")
    if len(said.names) != len(said.labels) or sum(said.labels) != said.examples:
        raise SiteError(
            f"the facts make no sense: {len(said.names)} labels, and {len(said.labels)} counts with the sum "
            f"{sum(said.labels)} for {said.examples} examples"
        )
    return Facts(said.examples, tuple(said.labels), said.parameters, tuple(said.names), said.base)


def read_update(header: Mapping[str, Any], body: bytes) -> ClientUpdate:
    """What `update_reply` says.

    Raises:
        SiteError: it says something else.
        AdapterError: as `adapters_of`.
    """
    if "update" not in header:
        raise SiteError(_instead("update", header))
    found = _parsed(_Update, header["update"], "the update")
    adapter = codec.adapter_of(found.adapter.model_dump(), codec.from_bytes(body), "adapter")
    return ClientUpdate(found.client, adapter, found.weight, found.metrics)


def read_scores(header: Mapping[str, Any], body: bytes) -> dict[str, float]:  # noqa: ARG001  # as the others
    """What `scores_reply` says; whether the task has such metrics is for who knows the task.

    Raises:
        SiteError: it says something else.
    """
    found = header.get("scores")
    if not isinstance(found, dict):
        raise SiteError(_instead("scores", header))
    return _parsed(_Scores, {"scores": found}, "the scores").scores


def _instead(expected: str, header: Mapping[str, Any]) -> str:
    return f"the site replied {', '.join(sorted(header)) or 'nothing'}; expected {expected}: is it of this version?"


def _parsed(kind: type[T], value: Any, where: str) -> T:  # Any: JSON
    try:
        return kind.model_validate_json(json.dumps(value))  # as JSON: an array is a tuple then
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"])
        raise SiteError(f"{where} cannot be read: {place or 'it'}: {first['msg'][:200]}") from None
    except (ValueError, RecursionError) as error:  # JSON in JSON, as deep as Python just about reads it
        raise SiteError(f"{where} cannot be read: {type(error).__name__}") from None
