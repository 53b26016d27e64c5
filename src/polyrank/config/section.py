"""What the tables of the configuration have in common."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def _place(name: str) -> str:
    r"""A path or a name, which has no control characters; a Windows path in double quotes has: ``"C:\temp\new"``."""
    if not any(unicodedata.category(letter) == "Cc" for letter in name):
        return name
    raise PydanticCustomError(
        "place",
        "no name has such characters: in double quotes a backslash begins an escape, so put a path between single "
        "quotes, or write it with /",
    )


Place = Annotated[str, AfterValidator(_place)]
"""Where something is: a path, or a name on the Hub."""


class Section(BaseModel):
    """A table of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
