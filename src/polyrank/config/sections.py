"""The tables of the configuration and their defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from polyrank.config.section import Count, Place, Section, Share

PLANNED = ("engine", "clients_per_pass", "lanes", "workers")
HOW = (*PLANNED, "cluster", "gradient_checkpointing", "cuda_graphs")
"""Keys of ``[training]`` that say how clients are trained, and not what comes out: every engine gives the same."""
MEASURED = (*PLANNED, "precision", "attention")
"""Keys of ``[training]`` that are measured on this machine where they are ``auto``."""


NO_CLUSTER = "none"
"""Of ``[training] cluster``: clients are trained on this machine."""


class ModelConfig(Section):
    """``[model]``: the base model and where it is adapted."""

    name: Place = "quickstart"
    """A Hugging Face id, a local folder, or an embedded model: ``quickstart``, an encoder, and ``quickstart-decoder``,
    which writes."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    head: Literal["auto", "model", "mean-pool"] = "auto"
    """``model``: the architecture's own head; ``mean-pool``: mean of the last hidden states and a linear layer;
    ``auto``: mean-pool where the checkpoint has no trained pooler, else model."""
    targets: str | list[str] = "default"
    """Linear layers that get LoRA: PEFT's ``default`` for the architecture, a list of names, a pattern of whole paths,
    or ``all-linear``. The output layer of a model that writes gets none."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before A."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """How the frozen linear layers are held: ``nf4`` in 4 bits, ``int8`` in 8; needs ``polyrank[quantized]``. Merged
    models are of the base as it is, not quantised."""
    config: dict[str, Any] = {}  # Any: whatever the architecture's own configuration takes
    """Values that replace those of the checkpoint's configuration, e.g. ``{num_hidden_layers = 3}``."""


class DataConfig(Section):
    """``[data]``: what is learned, and who holds what."""

    train: Place = "stdlib-docs"
    """A local csv, tsv, jsonl or parquet file, a folder of txt files, a Hub data set id, or an embedded data set:
    ``stdlib-docs``, or ``stdlib-signatures`` for models that write."""
    test: Place | None = None
    """The same for held-out text; without it the data set's own test split, or ``test_share`` of a local file."""
    text: str | list[str] = "text"
    """Name of the text column; several are joined by a space."""
    format: Literal["auto", "text", "prompt", "messages", "conversations"] = "auto"
    """What a model that writes learns of a row: a whole ``text``; the completion of a ``prompt``; the assistant's turns
    of ``messages`` (OpenAI) or ``conversations`` (ShareGPT); ``auto``: what the columns say."""
    prompt: str | list[str] | None = None
    """Column of the prompt; several are joined by an empty line, those without text left out. By default ``prompt``,
    ``instruction`` or ``question``, and ``context`` or ``input`` beside it."""
    completion: str | None = None
    """Column of the completion; by default ``completion``, ``response``, ``output`` or ``answer``."""
    messages: str | None = None
    """Column of the turns; by default the one that the format is called after."""
    template: str = "auto"
    """How a prompt is written: ``chat``, the tokenizer's own template; ``none``, as it stands; or a text with
    ``{prompt}``; ``auto``: chat where the tokenizer has a template, else none."""
    label: str = "label"
    """Name of the label column; where the task learns no labels they are kinds of texts, and ``""`` is none."""
    labels: list[str] | None = None
    """Names of the labels in their order, where one file may lack some; by default those of the training data."""
    quoting: Literal["auto", "quotes", "none", "multiline"] = "auto"
    """Of csv and tsv. ``none``: a line is a row and quotation marks are text; ``quotes``: a field may be quoted, and is
    refused where it reads like several rows; ``multiline``: as quotes, and never refused; ``auto``: quotes for csv,
    none for tsv."""
    test_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of a local training file that is held out where no test file is given."""
    limit_train: Count | None = None
    """Use at most so many training texts (a seeded sample)."""
    limit_test: Count | None = None
    """Use at most so many test texts (a seeded sample)."""
    partition: str = "quality-groups"
    """Who holds what: iid, dirichlet, by-label, by-column, quality-groups, size-groups."""
    options: dict[str, Any] = {}  # Any: each partition has options of its own
    """Options of a partition that has no keys of its own here."""
    size: Count | None = None
    """Examples per client; by default all examples are shared out."""
    alpha: float = Field(default=0.1, gt=0)
    """Concentration of the Dirichlet draws; small is skewed."""
    balanced_share: Share = 0.1
    """quality-groups: share of clients whose labels are near balanced, rounded half up; at least one is."""
    balanced_alpha: float = Field(default=100.0, gt=0)
    """quality-groups: concentration for the balanced clients."""
    labels_per_client: Count = 1
    """by-label: how many labels a client holds."""
    column: str | None = None
    """by-column: the column whose value is the client."""
    min_examples: Count = 1
    """The least number of examples that a client must hold."""
    hold_out: bool = False
    """Whether the server's validation set (``ranks.validation_per_label``) is kept from the clients though neither the
    rank policy nor the method asks for it: for the same data as under one that does."""
    max_tokens: Count = 64
    """Texts are cut to so many tokens; of a prompt and its answer the prompt is cut, from the left."""


class TaskConfig(Section):
    """``[task]``: what is learned of the data."""

    name: str = "auto"
    """``classification``: the class of a text, its label; ``causal-lm``: to write answers or texts; or a task of your
    own; ``auto``: what the columns of the data say."""
    options: dict[str, Any] = {}  # Any: each task has options of its own
    """Options of the task."""


class FederationConfig(Section):
    """``[federation]``: how many clients, how often, for how long."""

    clients: Count | None = None
    """Number of clients; by default 100, or one per value of ``data.column``."""
    participation: Share = 0.1
    """Share of the clients that take part in a round, rounded half up; at least one does."""
    rounds: Count = 25
    """How many rounds the federation trains."""
    seed: int = 0
    """Seed of all that is drawn: shares, ranks, cohorts, batches, the head."""
    head: Literal["mean", "local"] = "mean"
    """Whether the classification head is averaged or stays with the client."""


class RanksConfig(Section):
    """``[ranks]``: who trains how wide."""

    policy: str = "validation"
    """``fixed``: in the order of the clients' names; ``random``: drawn; ``validation``: scored as Byun and Lee do;
    ``self_pruning``: as fixed, then clients shrink (HetLoRA)."""
    options: dict[str, Any] = {}  # Any: each policy has options of its own
    """Options of a policy that has no keys of its own here."""
    levels: Annotated[list[int], Field(min_length=1)] = [5, 20]
    """The ranks that are given out, ascending."""
    shares: list[float] | None = None
    """Share of the clients per level; the default is nine tenths at the lowest and the rest at the highest."""
    counts: list[int] | None = None
    """Number of clients per level, instead of shares."""
    by_name: dict[str, int] = {}
    """fixed: rank of single clients, or of a group of the partition (``balanced``, ``skewed``)."""
    validation_per_label: Count = 20
    """validation: texts per label that the server keeps to score clients."""
    prune_keep: float = Field(default=0.99, gt=0, lt=1)
    """self_pruning: share of its rank that a client shrinks to, rounded down."""
    prune_weight: float = Field(default=1e-3, ge=0)
    """self_pruning: weight of the regulariser in the loss."""
    scaling: Literal["constant", "lora", "rslora"] = "constant"
    """``constant``: every client's scale is ``alpha``; ``lora``: ``alpha / r``; ``rslora``: ``alpha / sqrt(r)``."""
    alpha: float = Field(default=2.0, gt=0)
    """LoRA's scale, or what ``scaling`` divides by the rank."""

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if any(rank < 1 for rank in self.levels):
            raise ValueError(f"levels: found {self.levels}; expected ranks of 1 or more")
        if sorted(set(self.levels)) != list(self.levels):
            raise ValueError(f"levels: found {self.levels}; expected different ranks in ascending order")
        for name, rank in self.by_name.items():
            if rank < 1:
                raise ValueError(f"by_name: client {name} has rank {rank}; expected 1 or more")
        if self.shares is not None and self.counts is not None:
            raise ValueError("shares and counts are both given; expected one of them")
        for key, values in (("shares", self.shares), ("counts", self.counts)):
            if values is not None and len(values) != len(self.levels):
                raise ValueError(f"{key}: found {len(values)} values for {len(self.levels)} levels; expected one each")
            if values is not None and any(value < 0 for value in values):
                raise ValueError(f"{key}: found {values}; expected no negative value")
        if self.shares is not None and abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares: found {self.shares} with the sum {sum(self.shares):g}; expected the sum 1")
        return self


class AggregationConfig(Section):
    """``[aggregation]``: clients -> server."""

    method: str = "replication"
    """A name from ``polyrank methods``."""
    weights: Literal["examples", "uniform"] = "examples"
    """What a client weighs: its number of examples, or 1."""
    options: dict[str, Any] = {}  # Any: each method has options of its own
    """Options of the method, e.g. ``{donor = "owners"}``."""
    robust: str = "none"
    """How clients that send anything at all are kept from the result of a method on rows: norm, median, trimmed,
    geometric_median, krum (docs/methods.md); every client weighs 1 then, whatever ``weights`` says."""
    robust_options: dict[str, Any] = {}  # Any: each rule has options of its own
    """Options of the rule, e.g. ``{hostile = 0.2}``."""
    server: Literal["none", "momentum", "adagrad", "adam", "yogi"] = "none"
    """What makes a step of a round's change (docs/methods.md, around any method); ``none``: the change is the step."""
    server_lr: float | None = Field(default=None, gt=0)
    """The server's learning rate; 1 for momentum, and the others have no default."""
    server_options: dict[str, Any] = {}  # Any: each optimiser has options of its own
    """Options of the server optimiser: beta1 and, but for momentum, tau; beta2 of adam and yogi."""


class TrainingConfig(Section):
    """``[training]``: one client's local fine-tuning."""

    engine: Literal["auto", "sequential", "batched"] = "auto"
    """``sequential``: one client after another by PEFT's own layers, the reference; ``batched``: several clients in one
    pass; ``auto``: batched wherever the model allows it."""
    clients_per_pass: Count | Literal["auto"] = "auto"
    """batched: the most clients in one pass; ``auto`` measures what is fastest and fits into memory."""
    lanes: Count | Literal["auto"] = "auto"
    """Passes at a time in one process, in threads of their own over one base; the process's cores are shared out among
    them. ``auto`` measures what is fastest on a CPU; 1 on a GPU."""
    workers: Count | Literal["auto"] = "auto"
    """Processes that share the clients of a round, each with the base; ``auto``: one per GPU, or on a CPU one per core
    where that is measured to pay."""
    cluster: str = NO_CLUSTER
    """A Ray cluster whose nodes train: ``ray`` for the one of ``RAY_ADDRESS``, or else one on this machine, or its
    address; needs ``polyrank[cluster]``. ``workers`` counts its actors then; ``auto``: one per GPU, or per node."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base model; adapters and optimiser are float32. ``auto`` measures which is faster here."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """``auto`` measures which is faster here."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Of each client, made anew in every round."""
    lr: float = Field(default=5e-3, gt=0)
    """The highest learning rate of a client's round."""
    epochs: Count = 1
    """How often a client sees each of its examples in a round."""
    batch_size: Count = 16
    """Examples in a client's step."""
    accumulate: Count = 1
    """In how many parts, at least, a full step is computed, one after another, where memory is short; their gradients
    are added up. A step stays of ``batch_size`` examples (transformers' ``gradient_accumulation_steps`` multiplies)."""
    gradient_checkpointing: bool = False
    """Whether layers keep only their inputs and are computed once more in the backward pass: less memory, about a third
    more time, the same result."""
    cuda_graphs: bool = False
    """batched, on a GPU: whether a pass whose shape is met again is recorded as a CUDA graph and replayed: the same
    result, sooner where steps are small. Not yet tried on a GPU; of tasks whose passes are all alike, as
    classification's are, and not beside ``gradient_checkpointing``."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of all trained values, decoupled from the gradient in adamw."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """sgd only."""
    warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of a client's steps of the round over which the learning rate rises from 0."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls to 0 over the rest of the client's steps of the round."""
    rounds_decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate of a client's round falls from ``lr`` in the first round towards 0 after the last one."""
    proximal: float = Field(default=0.0, ge=0)
    """Weight of half the squared distance from where the round began, of what is trained and sent (FedProx)."""
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of a client's gradient; 0 switches clipping off."""

    @model_validator(mode="after")
    def _parts_have_examples(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate: found {self.accumulate} parts of a step of {self.batch_size} examples (batch_size); "
                f"expected at most {self.batch_size}"
            )
        return self


class EvaluationConfig(Section):
    """``[evaluation]``: what is measured on the test set."""

    every: Count = 1
    """Rounds between two evaluations; the last round is always evaluated."""
    patience: Count | None = None
    """The run ends after so many evaluations in a row without a better primary metric of the test set."""
    batch_size: Count = 256
    """Examples that are measured at a time."""
    diagnostics: bool = True
    """Whether each round measures aggregation error, effective rank and drift."""
    rank_groups: bool = True
    """Whether the adapter of each rank group is evaluated at the end."""
    samples: Annotated[int, Field(ge=0)] = 5
    """causal-lm: test prompts that are answered before the first round and after the last; 0 for none."""
    sample_tokens: Count = 64
    """causal-lm: the most tokens of such an answer."""


class OutputConfig(Section):
    """``[output]``: where results go besides the run folder."""

    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Trackers of accelerate.tracking; each needs its own package."""
    project: str = "polyrank"
    """Name under which trackers file the run."""

    @field_validator("trackers")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(value))
