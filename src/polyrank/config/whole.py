"""The configuration as a whole."""

from __future__ import annotations

from polyrank.config.privacy import PrivacyConfig
from polyrank.config.section import Section
from polyrank.config.sections import (
    AggregationConfig,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
    OutputConfig,
    RanksConfig,
    TaskConfig,
    TrainingConfig,
)
from polyrank.config.secure import SecureConfig


class Config(Section):
    """All of it."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    federation: FederationConfig = FederationConfig()
    ranks: RanksConfig = RanksConfig()
    aggregation: AggregationConfig = AggregationConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    secure: SecureConfig = SecureConfig()
    output: OutputConfig = OutputConfig()
