"""What a run reports of its adapter is what a plain loop of transformers and PEFT makes of the exported folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyrank import config as configuration
from polyrank.runs.runner import run
from tests import writers


@pytest.mark.parametrize("template", ["chat", "none"])
def test_loss_perplexity_and_token_accuracy(tmp_path: Path, template: str):
    """Row by row, without padding: nats of the answer and its end, over all of their tokens, to 1e-4."""
    study = writers.study(tmp_path)
    test = writers.pairs(60)[48:]
    writers.write(tmp_path / "test.jsonl", test)
    settings = [f"data.test={tmp_path / 'test.jsonl'}", f"data.template={template}", "data.max_tokens=120"]
    run(configuration.load(study / "study.toml", settings), tmp_path / "run")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])

    tokenizer = AutoTokenizer.from_pretrained(study / "llama")
    base = AutoModelForCausalLM.from_pretrained(study / "llama", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    nats, tokens, right = 0.0, 0, 0
    for row in test:
        if template == "chat":
            asked = [{"role": "user", "content": row["prompt"]}]
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
            answer = tokenizer(f"{row['completion']}<|im_end|>", add_special_tokens=False)["input_ids"]
        else:
            prompt = tokenizer(row["prompt"])["input_ids"]
            answer = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *answer]])
        labels = torch.tensor([[*[-100] * len(prompt), *answer]])
        with torch.no_grad():
            found = model(input_ids=ids, labels=labels)
        nats += float(found.loss) * len(answer)
        tokens += len(answer)
        right += int((found.logits[0, len(prompt) - 1 : -1].argmax(dim=-1) == torch.tensor(answer)).sum())
    assert last["test/loss"] == pytest.approx(nats / tokens, abs=1e-4)
    assert last["test/perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert last["test/token_accuracy"] == pytest.approx(right / tokens, abs=1e-4)
