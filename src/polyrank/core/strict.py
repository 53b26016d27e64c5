"""JSON that must be of a kind, whoever wrote it; without torch, which readers of run folders do not need."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from polyrank.core.errors import CodecError

Kind: TypeAlias = Any
"""A type, or what ``typing`` makes of one."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things."""


def checked(kind: Kind, value: object, where: str) -> Any:  # Any: of the kind
    """JSON that must be of a kind, strictly: no text for a number, nothing left over.

    Raises:
        CodecError: it is not.
    """
    try:
        return _validator(kind).validate_json(json.dumps(value), strict=True)  # as JSON: an array is a tuple then
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join([where, *(str(part)[:60] for part in first["loc"][:4])])
        raise CodecError(f"{place}: {first['msg'][:200]}") from None
    except (ValueError, RecursionError) as error:  # JSON in JSON, as deep as Python just about reads it
        raise CodecError(f"{where}: {type(error).__name__}") from None


@cache
def _validator(kind: Kind) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
