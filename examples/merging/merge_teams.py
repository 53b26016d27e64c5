"""Two adapters of different ranks, merged by three methods; the best one in plain PEFT."""

from __future__ import annotations

import sys
from pathlib import Path

from peft import PeftModel

import polyrank

RANKS = {"north": 4, "south": 16}
METHODS = ("zero_padding", "flexlora", "flora")


def adapter(team: str, folder: Path, settings: list[str]) -> Path:
    """What a team trained: the first texts that come with the package, with its own rank and seed."""
    own = [f"ranks.levels=[{RANKS[team]}]", "ranks.policy=fixed", "aggregation.method=fedavg", "data.partition=iid"]
    own += ["data.limit_train=160", "data.limit_test=80", "federation.clients=4", "federation.participation=1.0"]
    own += ["federation.rounds=2", f"federation.seed={list(RANKS).index(team)}"]
    polyrank.run(polyrank.load_config(None, [*own, *settings]), folder / team)
    return folder / team / "adapter"


def main(settings: list[str]) -> None:
    """Train, merge and load."""
    adapters = [adapter(team, Path("teams"), settings) for team in RANKS]
    merged = {method: polyrank.merge(adapters, weights=[2, 1], method=method) for method in METHODS}
    for method, found in merged.items():
        print(f"{method}: rank {found.adapter.rank}, error {found.error:.3f}")
    best = min(merged, key=lambda method: merged[method].error)
    merged[best].save("merged")
    base = polyrank.base_model(adapters[0])
    model = PeftModel.from_pretrained(base.model, "merged").eval()
    batch = base.tokenizer(["Open a socket and wait for connections."], return_tensors="pt")
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    print(f"{best} in PEFT: {base.model.config.id2label[int(logits.argmax())]}")


if __name__ == "__main__":
    main(sys.argv[1:])
