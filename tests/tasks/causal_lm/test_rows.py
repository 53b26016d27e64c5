import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from polyrank.core.errors import ConfigError, DataError
from polyrank.data.turns import Turn
from polyrank.tasks.causal_lm.prompts import prompts_for
from polyrank.tasks.causal_lm.rows import answered, whole_text, written
from tests import writers

ASKED, TOLD = Turn("user", "What is two and two?"), Turn("assistant", "It is four.")
MORE = [ASKED, TOLD, Turn("user", "And three?"), Turn("assistant", "Then it is seven, I think.")]
UNUSABLE = ("deepseek", "nemotron")
"""Templates that write a question otherwise once its answer follows."""
ANEW = ("gptoss", "qwen3.jinja", "qwen3_5", "qwen3_6")
"""Templates that write earlier answers anew."""


def templates():
    found = importlib.util.find_spec("trl")
    if found is None:
        return []
    files = sorted((Path(found.origin).parent / "chat_templates").glob("*.jinja"))
    return [file for file in files if not file.stem.endswith("_training")]


def spoken(tokenizer, row):
    """The trained spans as texts."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.trained.astype(int), [0]])))
    return [tokenizer.decode(row.ids[a:b]) for a, b in edges.reshape(-1, 2)]


def with_template(text):
    tokenizer = writers.tokenizer(chat=False, begins=False)
    marks = re.findall(
        r"<[|\uff5c][^<>\s'\"{}]*[|\uff5c]>|<(?:\w+_of_\w+|turn\||\|turn)>|\[/?(?:INST|gMASK)\]|<sop>", text
    )
    tokenizer.add_special_tokens({"additional_special_tokens": sorted({*marks, "<|im_end|>"})})
    tokenizer.chat_template = text
    return tokenizer


@pytest.mark.parametrize("file", templates(), ids=lambda file: file.stem)
def test_public_templates(file):
    tokenizer = with_template(file.read_text(encoding="utf-8"))
    prompts = prompts_for(tokenizer, "chat")
    if file.name.startswith(UNUSABLE):
        with pytest.raises(DataError, match="otherwise once its answer follows"):
            written(prompts, MORE[:2])
        return
    for turns in (MORE[:2], MORE):
        row = written(prompts, turns)
        spans = spoken(tokenizer, row)
        answers = [turn.content for turn in turns if turn.role == "assistant"]
        assert len(spans) == (1 if file.name.startswith(ANEW) else len(answers))
        for span, answer in zip(reversed(spans), reversed(answers), strict=False):
            assert answer in span
            assert not any(turn.content in span for turn in turns if turn.role == "user")
        assert row.ids[-1] in tokenizer.all_special_ids
        opening = prompts.opening(turns[:-1])
        assert row.ids[: len(opening)].tolist() == opening  # what the model is asked with is what it was trained after
        assert row.trained[len(opening) :].all()


def test_enough_public_templates_are_tried():
    if importlib.util.find_spec("trl") is None:
        pytest.skip("trl is not installed")
    assert sum(not file.name.startswith(UNUSABLE) for file in templates()) >= 24


def test_a_template_that_drops_what_is_said_is_refused():
    tokenizer = with_template("{% for m in messages %}<|im_start|>{{ m['role'] }}\n<|im_end|>{% endfor %}")
    with pytest.raises(DataError, match="does not write the answer as it stands"):
        written(prompts_for(tokenizer, "chat"), [ASKED, TOLD])


def test_a_template_without_an_end_gets_the_end_token():
    tokenizer = with_template(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    row = written(prompts_for(tokenizer, "chat"), [ASKED, TOLD])
    assert spoken(tokenizer, row) == ["It is four.</s>"]


def test_one_begin_token():
    with_begin = writers.tokenizer(chat=True, begins=True)
    for template in ("chat", "none", "<s>Q: {prompt} A: ", "Q: {prompt} A: "):
        prompts = prompts_for(with_begin, template)
        row = written(prompts, [ASKED, TOLD])
        assert row.ids.tolist().count(0) == 1, template
        assert row.ids[0] == 0
        assert prompts.opening([ASKED]).count(0) == 1
    assert whole_text(prompts_for(with_begin, "none"), "The apple is red.", 50).ids.tolist().count(0) == 1
    assert written(prompts_for(writers.tokenizer(begins=False), "none"), [ASKED, TOLD]).ids.tolist().count(0) == 0


def test_an_answer_begins_where_the_model_will_be_asked():
    """Also where what comes before it and its first letters would be one token: there the two are encoded apart."""
    tokenizer = writers.tokenizer(begins=False)
    assert tokenizer.tokenize("colour") != [*tokenizer.tokenize("colo"), *tokenizer.tokenize("ur")]
    tokenizer.chat_template = writers.CHAT.replace("assistant\n", "assistant\ncolo").replace(
        "{{ m['content'] }}", "{{ ('colo' if m['role'] == 'assistant' else '') + m['content'] }}"
    )
    prompts = prompts_for(tokenizer, "chat")
    turns = [ASKED, Turn("assistant", "urful")]
    row = written(prompts, turns)
    assert spoken(tokenizer, row) == ["urful<|im_end|>"]
    assert row.ids[: int(row.trained.argmax())].tolist() == prompts.opening(turns[:1])


def test_plain_templates():
    tokenizer = writers.tokenizer(begins=False)
    row = written(prompts_for(tokenizer, "none"), [ASKED, TOLD])
    assert tokenizer.decode(row.ids) == "What is two and two?It is four.</s>"
    assert spoken(tokenizer, row) == ["It is four.</s>"]
    row = written(prompts_for(tokenizer, "### {prompt}\n### "), [ASKED, TOLD])
    assert tokenizer.decode(row.ids) == "### What is two and two?\n### It is four.</s>"
    with pytest.raises(DataError, match="several answers"):
        written(prompts_for(tokenizer, "none"), MORE)
    with pytest.raises(ConfigError, match="no chat template"):
        prompts_for(writers.tokenizer(chat=False), "chat")
    with pytest.raises(ConfigError, match="a text with"):
        prompts_for(tokenizer, "alpaca")


def test_an_answer_may_spell_the_end():
    tokenizer = writers.tokenizer()
    row = written(prompts_for(tokenizer, "chat"), [ASKED, Turn("assistant", "Write <|im_end|> to end a turn.")])
    assert spoken(tokenizer, row) == ["Write <|im_end|> to end a turn.<|im_end|>"]


def test_an_answer_that_ends_in_an_end_token_under_a_template_that_writes_none():
    tokenizer = with_template(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    told = Turn("assistant", "Turns end in <|im_end|>")
    row = written(prompts_for(tokenizer, "chat"), [*MORE[:3], told])
    assert spoken(tokenizer, row)[-1] == "Turns end in <|im_end|></s>"
    assert "And three?" in tokenizer.decode(row.ids)


class TestTruncation:
    """The prompt's left goes, the answer never does."""

    tokenizer = writers.tokenizer()
    prompts = prompts_for(tokenizer, "chat")
    long = (Turn("user", "The apple is red. " * 40 + "What is it?"), TOLD)

    def test_the_left_of_the_question_is_cut(self):
        row = answered(self.prompts, self.long, 40)
        text = self.tokenizer.decode(row.ids)
        assert row.cut
        assert 35 < len(row) <= 40
        assert text.startswith("<s><|im_start|>user\n")
        assert text.endswith("What is it?<|im_end|>\n<|im_start|>assistant\nIt is four.<|im_end|>")
        assert spoken(self.tokenizer, row) == ["It is four.<|im_end|>"]

    def test_every_limit_keeps_the_answer_or_says_that_it_cannot(self):
        answer = len(self.prompts.ids(TOLD.content)) + 1
        for limit in range(2, 60):
            row = answered(self.prompts, self.long, limit)
            assert (row is None) == (answer + 2 > limit + 1), limit
            if row is not None:
                assert len(row) <= limit
                assert spoken(self.tokenizer, row) == ["It is four.<|im_end|>"]

    def test_without_a_begin_token_something_stays_before_the_answer(self):
        """What comes first in a row is never learned, so it is not the answer."""
        tokenizer = writers.tokenizer(chat=False, begins=False)
        prompts = prompts_for(tokenizer, "none")
        answer = len(prompts.ids(TOLD.content)) + 1
        for limit in range(2, 30):
            row = answered(prompts, self.long, limit)
            assert (row is None) == (answer + 1 > limit)
            assert row is None or spoken(tokenizer, row) == ["It is four.</s>"]

    def test_whole_exchanges_go_first(self):
        whole = answered(self.prompts, MORE, 1000)
        row = answered(self.prompts, MORE, len(whole) - 1)
        assert not whole.cut
        assert row.cut
        assert spoken(self.tokenizer, row) == ["Then it is seven, I think.<|im_end|>"]
        assert "two" not in self.tokenizer.decode(row.ids)

    def test_the_system_turn_goes_last(self):
        turns = [Turn("system", "Be brief."), *self.long]
        text = self.tokenizer.decode(answered(self.prompts, turns, 50).ids)
        assert "Be brief." in text
        assert "What is it?" in text

    def test_cut_characters_leave_nothing_behind(self):
        turns = [Turn("user", "🙂" * 60), TOLD]
        for limit in range(30, 50):
            assert "\ufffd" not in self.tokenizer.decode(answered(self.prompts, turns, limit).ids)

    def test_a_text_is_kept_whole_or_left_out(self):
        whole = whole_text(self.prompts, "The apple is red. The river is blue.", 100)
        assert whole.ids[-1] == self.prompts.end
        assert whole.trained.tolist() == [False] + [True] * (len(whole) - 1)
        assert whole_text(self.prompts, "The apple is red. The river is blue.", len(whole)) is not None
        assert whole_text(self.prompts, "The apple is red. The river is blue.", len(whole) - 1) is None
