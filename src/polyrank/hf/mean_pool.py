"""A classification head for encoders without a useful pooler: mean of the last hidden states, then one linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPoolClassifier(nn.Module):
    """``logits = classifier(mean over real tokens of the encoder's last hidden states)``.

    The mean runs in float32. Any model that ``AutoModel`` loads will do; a pooler of its own is not used.

    Args:
        encoder: returns ``last_hidden_state``, ``(batch, tokens, hidden)``.
        labels: number of classes.
    """

    def __init__(self, encoder: PreTrainedModel, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.classifier = nn.Linear(encoder.config.get_text_config().hidden_size, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> SequenceClassifierOutput:
        """Logits ``(batch, labels)``; ``attention_mask`` is 1 for real tokens. Further inputs go to the encoder."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        mean = (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return SequenceClassifierOutput(logits=self.classifier(mean.to(self.classifier.weight.dtype)))

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's, under the name that transformers gives it."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings
