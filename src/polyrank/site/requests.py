"""What a site is asked over its socket and what it answers: two questions, two answers, and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyrank.core import codec
from polyrank.core.errors import CodecError, PolyRankError, SiteError, named
from polyrank.federation.participant import Facts
from polyrank.training.work import Outcome, Work

Frame = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class Asked:
    """What does the client hold?"""

    client: str


@dataclass(frozen=True)
class Failed:
    """What went wrong: the name of an error, and its message."""

    error: str
    message: str


Request = Asked | Work
Reply = Facts | Outcome | Failed
_KINDS: Mapping[str, type[Request | Reply]] = {
    **{"facts?": Asked, "work": Work},
    **{"facts": Facts, "outcome": Outcome, "error": Failed},
}


def what(request: Request) -> str:
    """A request for a log."""
    if isinstance(request, Asked):
        return f"facts of {request.client}"
    return f"round {request.round}, training {request.client}"


def framed(value: Request | Reply) -> Frame:
    """A request or a reply as the header and the body of a frame."""
    kind = next(name for name, known in _KINDS.items() if isinstance(value, known))
    header, tensors = codec.encode(value)
    return {kind: header}, codec.to_bytes(tensors) if tensors else b""


def read_request(header: Mapping[str, Any], body: bytes) -> Request:
    """What is asked for.

    Raises:
        SiteError: it is none of the requests, or a part of it is missing, unknown or of another type.
    """
    found = _read(header, body, "request")
    if not isinstance(found, Asked | Work):
        raise SiteError(f"the request is {_shown(header)}; expected one of facts?, work")
    return found


def read_reply(header: Mapping[str, Any], body: bytes) -> Facts | Outcome:
    """What is answered.

    Raises:
        SiteError: it is no reply, or says what makes no sense.
        PolyRankError: of the kind that the site raised.
    """
    found = _read(header, body, "reply")
    if isinstance(found, Failed):
        raise named(found.error, SiteError)(
            found.message.strip() or "the site failed, and does not say why: see its log"
        )
    if isinstance(found, Facts) and (len(found.names) != len(found.labels) or sum(found.labels) not in _sums(found)):
        raise SiteError(
            f"the facts make no sense: {len(found.names)} labels, and {len(found.labels)} counts with the sum "
            f"{sum(found.labels)} for {found.examples} examples"
        )
    if not isinstance(found, Facts | Outcome):
        raise SiteError(f"the site replied {_shown(header)}: is it of this version?")
    return found


def failed(error: Exception, doing: str) -> Failed:
    """An error, to be raised again on the other side: as it was if a user can mend it, else as a `SiteError`."""
    if isinstance(error, PolyRankError):
        return Failed(type(error).__name__, str(error))
    # not its text: it may quote the site's data, and who asked may pass it on
    message = f"the site failed at {doing}: {type(error).__name__} (its log has the traceback; it goes on)"
    return Failed(SiteError.__name__, message)


def _sums(facts: Facts) -> tuple[int, ...]:
    """What the counts by label may add up to: nothing is counted where the data have no labels."""
    return (facts.examples,) if facts.names else (0,)


def _read(header: Mapping[str, Any], body: bytes, where: str) -> Request | Reply:
    kind = next(iter(header), "")
    if len(header) != 1 or kind not in _KINDS:
        raise SiteError(f"the {where} is {_shown(header)}; expected one of {', '.join(_KINDS)}: is it of this version?")
    try:
        return codec.decode(_KINDS[kind], header[kind], codec.from_bytes(body) if body else {})
    except CodecError as error:
        raise SiteError(f"the {where} {kind} cannot be read: {error}") from None


def _shown(header: Mapping[str, Any]) -> str:
    return ", ".join(sorted(key[:20] for key in header))[:60] or "empty"
