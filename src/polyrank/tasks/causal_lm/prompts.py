"""How conversations are written for a model: its tokenizer's chat template, or a plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from polyrank.core.errors import ConfigError, DataError
from polyrank.data.turns import ASSISTANT, Turn

AUTO, CHAT, NONE, PLACE = "auto", "chat", "none", "{prompt}"


@dataclass(frozen=True, eq=False)
class Prompts:
    """A tokenizer, and how prompts are written for it.

    Args:
        tokenizer: of transformers.
        template: `CHAT`, `NONE`, or a text with `PLACE`.
    """

    tokenizer: Any  # Any: tokenizers have no typed base
    template: str

    @property
    def chat(self) -> bool:
        """Whether the tokenizer's own template is used."""
        return self.template == CHAT

    @cached_property
    def begins(self) -> tuple[int, ...]:
        """The begin token, where the tokenizer puts one before a text of its own accord."""
        first = self.tokenizer("")["input_ids"][:1]
        return tuple(first) if first and first[0] == self.tokenizer.bos_token_id else ()

    @cached_property
    def stop(self) -> int:
        """The token by which an answer ends: the template's end of a turn, else the tokenizer's end token."""
        if not self.chat:
            return self.end
        question, answer = Turn("user", "Hi"), Turn(ASSISTANT, "Hello")
        try:
            before, after = self.rendered([question], ask=True), self.rendered([question, answer])
        except DataError:
            return self.end
        ids = self.ids(after.removeprefix(before))
        over = self.over(ids)
        return ids[over] if over is not None else self.end

    @cached_property
    def end(self) -> int:
        """The tokenizer's end token.

        Raises:
            ConfigError: it has none.
        """
        end = self.tokenizer.eos_token_id
        if not isinstance(end, int):
            raise ConfigError(
                "the tokenizer has no end token, so an answer would have no end; set one: "
                "tokenizer.eos_token = ..., tokenizer.save_pretrained(FOLDER)"
            )
        return end

    def over(self, ids: Sequence[int]) -> int | None:
        """Where the token stands by which an answer ends: the first special one of its end; None where it has none.

        Args:
            ids: of the answer and what a template wrote after it; spaces may be among that.
        """
        found = None
        for i in range(len(ids) - 1, -1, -1):
            if self._is_special(ids[i]):
                found = i
            elif self.tokenizer.decode([ids[i]]).strip():
                break
        return found

    def _is_special(self, token: int) -> bool:
        return token in self._specials

    def spelled(self, turns: Sequence[Turn]) -> str | None:
        """A special token that somebody says in so many letters, if any: under a chat template it becomes the token.

        In texts that are written as they stand such tokens are meant to be there.
        """
        if not self.chat or (found := self._spellings.search("\n".join(turn.content for turn in turns))) is None:
            return None
        return found.group()

    @cached_property
    def _spellings(self) -> re.Pattern[str]:
        texts = sorted(
            filter(None, self.tokenizer.convert_ids_to_tokens(sorted(self._specials))), key=len, reverse=True
        )
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    @cached_property
    def _specials(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {number for number, token in added if token.special}

    def rendered(self, turns: Sequence[Turn], *, ask: bool = False) -> str:
        """A conversation as text; with ``ask``, up to where the assistant begins to speak.

        Raises:
            DataError: the template refuses it; its own words are given.
        """
        try:
            return self._render(turns, ask=ask, parts=self._in_parts)
        except Exception as error:  # templates raise whatever they like
            raise DataError(f"the chat template refuses it: {' '.join(str(error).split())[:200]}") from error

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template wants contents as lists of parts, as those of models that also see do: tried."""
        question, answer = Turn("user", "Where?"), Turn(ASSISTANT, "Here.")
        for parts in (False, True):
            try:
                text = self._render([question, answer], ask=False, parts=parts)
            except Exception:  # as above
                continue
            if question.content in text and answer.content in text:
                return parts
        return False

    def _render(self, turns: Sequence[Turn], *, ask: bool, parts: bool) -> str:
        messages: list[dict[str, Any]] = [
            {"role": turn.role, "content": [{"type": "text", "text": turn.content}] if parts else turn.content}
            for turn in turns
        ]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        return text

    def plain(self, turns: Sequence[Turn]) -> str:
        """A prompt, for models without a chat template."""
        said = "\n\n".join(turn.content for turn in turns)
        return said if self.template == NONE else self.template.replace(PLACE, said)

    @property
    def chat_template(self) -> str | None:
        """A chat template that renders a conversation as it is written here; None where the tokenizer's own is used."""
        if self.chat:
            return None
        parts = (PLACE if self.template == NONE else self.template).split(PLACE)
        begins = bool(self.begins) and not parts[0].startswith(self.tokenizer.bos_token)
        said = "{{ ns.said }}".join("{{ " + json.dumps(part, ensure_ascii=False) + " }}" for part in parts)
        return (
            "{% set ns = namespace(said='') %}{% for message in messages %}"
            "{% set ns.said = ns.said + ('' if loop.first else '\\n\\n') + message['content'] %}{% endfor %}"
            + ("{{ bos_token }}" if begins else "")
            + said
        )

    def ids(self, text: str) -> list[int]:
        """A text's tokens, none added: what a template wrote holds its own begin token."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        return found

    def opening(self, turns: Sequence[Turn]) -> list[int]:
        """What a model is given to answer: a conversation whose last turn is not the assistant's, as tokens.

        Raises:
            DataError: as `rendered`.
        """
        if self.chat:
            return self.ids(self.rendered(turns, ask=True))
        return self.begun(self.plain(turns))

    def begun(self, text: str) -> list[int]:
        """A plain text's tokens after one begin token, where the tokenizer has one before texts."""
        spelled = bool(self.begins) and text.startswith(self.tokenizer.bos_token)
        return [*(() if spelled else self.begins), *self.ids(text)]


def prompts_for(tokenizer: Any, template: str) -> Prompts:  # Any: as above
    """How prompts are written, with ``auto`` resolved.

    Raises:
        ConfigError: the tokenizer has no chat template, or the text has no place for the prompt.
    """
    known = bool(tokenizer.chat_template)
    if template == AUTO:
        return Prompts(tokenizer, CHAT if known else NONE)
    if template == CHAT and not known:
        raise ConfigError(
            "data.template is 'chat', and the model's tokenizer has no chat template; expected 'none', or a text with "
            f"{PLACE}, such as '### Question: {PLACE} ### Answer: '"
        )
    if template not in (CHAT, NONE) and PLACE not in template:
        raise ConfigError(f"data.template is {template!r:.60}; expected 'chat', 'none', or a text with {PLACE}")
    return Prompts(tokenizer, template)
