"""Which task a user's columns are of, and which of them it reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyrank.config import Config
from polyrank.core.errors import DataError
from polyrank.data.sources.roles import Found, Seen
from polyrank.data.sources.tables import listed
from polyrank.federation.planning.draft import Draft, quoted, some
from polyrank.tasks.registry import AUTO, TASKS, writing_of

CLASSIFICATION, WRITING = "classification", "causal-lm"


@dataclass(frozen=True)
class Taken:
    """What columns were taken for.

    Args:
        writes: whether the task is to write.
        roles: column -> what it is.
    """

    writes: bool
    roles: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are something."""
        return tuple(self.roles)


def task_of(asked: Config, seen: Seen) -> tuple[str, bool]:
    """The task that was asked for or that the columns are of, and whether it is to write.

    Raises:
        ConfigError: there is no such task.
        DataError: no column can be taken for texts.
    """
    name = asked.task.name if asked.task.name != AUTO else _likely(asked, seen)
    return name, TASKS.named(name).writes


def _likely(asked: Config, seen: Seen) -> str:
    data, writing = asked.data, writing_of(asked.data)
    if writing.format is not None or data.prompt or data.completion or data.messages:
        return WRITING
    if {*listed(data.text), data.label} <= set(seen.names):
        return CLASSIFICATION
    if any(form != "text" for form in writing.possible(seen.names)):
        return WRITING
    text = _text(asked, seen)
    return CLASSIFICATION if seen.label([text.column.name]) or "label" in data.model_fields_set else WRITING


def _text(asked: Config, seen: Seen) -> Found:
    """The column of texts.

    Raises:
        DataError: there is none that looks like texts.
    """
    found = seen.text([asked.data.label] if "label" in asked.data.model_fields_set else ())
    if found is None:
        raise DataError(
            f"no column of {asked.data.train} looks like texts; columns found: {some(list(map(quoted, seen.names)))}. "
            "Name it: --set data.text=COLUMN, or for a model that writes data.prompt and data.completion, or "
            "data.messages"
        )
    return found


def put_columns(draft: Draft, asked: Config, seen: Seen, *, writes: bool) -> Taken:
    """Name the data and their columns.

    Raises:
        DataError: no column can be taken for what the task reads; what was found is named.
    """
    data = asked.data
    draft.put("data", "train", data.train)
    draft.example("data", "test", "test.csv", "Held-out rows of your own; without them a part of the data is held out.")
    taken = Taken(writes)
    if writes:
        _put_writing(draft, asked, seen, taken)
    else:
        _put_classes(draft, asked, seen, taken)
    return taken


def _put_classes(draft: Draft, asked: Config, seen: Seen, taken: Taken) -> None:
    data = asked.data
    if "text" in data.model_fields_set or set(listed(data.text)) <= set(seen.names):
        draft.put("data", "text", data.text)
        taken.roles.update(dict.fromkeys(listed(data.text), "text"))
    else:
        found = _text(asked, seen)
        draft.put("data", "text", found.column.name, *_why(found, "the longest strings"))
        taken.roles[found.column.name] = "text"
    if "label" in data.model_fields_set or data.label in seen.names:
        draft.put("data", "label", data.label)
        taken.roles[data.label] = "label"
        return
    label = seen.label(taken.columns)
    if label is None:
        raise DataError(
            f"no column of {data.train} looks like labels; columns found: {some(list(map(quoted, seen.names)))}. Name "
            "it: --set data.label=COLUMN; or learn to write the texts: --task causal-lm"
        )
    draft.put("data", "label", label.column.name, *_why(label, "the fewest different values"))
    taken.roles[label.column.name] = "label"


def _put_writing(draft: Draft, asked: Config, seen: Seen, taken: Taken) -> None:
    data, writing = asked.data, writing_of(asked.data)
    form = writing.found(seen.names)
    if form is None:
        found = _text(asked, seen)
        draft.put(
            "data",
            "format",
            "text",
            "Whole texts are learned. Of prompts and answers name prompt and completion instead.",
        )
        draft.put("data", "text", found.column.name, *_why(found, "the longest strings"))
        taken.roles[found.column.name] = "text"
    elif form == "text":
        draft.put("data", "format", "text", "Whole texts are learned.")
        draft.put("data", "text", data.text)
        taken.roles.update(dict.fromkeys(listed(data.text), "text"))
    elif form == "prompt":
        prompts, completion = writing.prompts(seen.names), writing.completions(seen.names)
        draft.put("data", "format", "prompt", "The answer to a prompt is learned.")
        if prompts:
            draft.put("data", "prompt", prompts[0] if len(prompts) == 1 else list(prompts))
        if completion:
            draft.put("data", "completion", completion)
        taken.roles.update(dict.fromkeys(prompts, "prompt") | ({completion: "completion"} if completion else {}))
    else:
        name = data.messages or form
        draft.put("data", "format", form, "What the assistant says is learned.")
        draft.put("data", "messages", name)
        taken.roles[name] = "conversations"
    label = seen.label(taken.columns)
    if "label" in data.model_fields_set:
        draft.put("data", "label", data.label)
        taken.roles.update({data.label: "label"} if data.label else {})
    elif label is not None and label.named:
        draft.put("data", "label", label.column.name, "Of which kind a text is; each kind is measured on its own too.")
        taken.roles[label.column.name] = "label"


def _why(found: Found, values: str) -> tuple[str, ...]:
    return () if found.named else (f"Taken for it because it has {values}; nothing in its name says so.",)
