"""The table from parameter names to optimiser settings."""

import fnmatch
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rates by kind of parameter, and the weight decay of the matrices."""

    matrix: float
    embedding: float
    value_embedding: float
    head: float
    scalar: float
    weight_decay: float

    def scaled(self, factor: float) -> "LearningRates":
        """All rates times `factor`; the weight decay is unchanged."""
        return LearningRates(
            matrix=self.matrix * factor,
            embedding=self.embedding * factor,
            value_embedding=self.value_embedding * factor,
            head=self.head * factor,
            scalar=self.scalar * factor,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class Rule:
    """The optimiser settings of parameters whose name matches `pattern`; Muon decays its matrices, AdamW nothing."""

    pattern: str
    algorithm: Literal["muon", "adamw"]
    rate: Literal["matrix", "embedding", "value_embedding", "head", "scalar"]
    rate_factor: float = 1.0
    beta1: float = 0.8
    beta2: float = 0.95
    eps: float = 1e-10
    """Added to the root of AdamW's second moment."""
    heads: Literal["rows", "columns"] | None = None
    """The side along which a matrix holds attention heads, so that Muon can orthogonalise each head separately."""

    def __post_init__(self) -> None:
        assert self.algorithm == "muon" or self.heads is None, self


# At the start no block contributes, and the final norm cancels a common factor: the true gradient of most scalars is
# zero and the computed one is rounding error (3e-11). With an eps of 1e-10, AdamW would turn that into a fifth of a
# full step. True gradients are 1e-5 and more.
_SCALAR_EPS = 1e-8

# The first matching rule applies. Residual scales act on every path through the model, so their rate is 100 × smaller.
RULES = (
    Rule("embedding.weight", "adamw", "embedding"),
    Rule("value_embeddings.*", "adamw", "value_embedding"),
    Rule("head.weight", "adamw", "head", beta2=0.96),
    Rule("residual_scale", "adamw", "scalar", rate_factor=0.01, eps=_SCALAR_EPS),
    Rule("embedding_scale", "adamw", "scalar", beta1=0.96, eps=_SCALAR_EPS),
    Rule("smear_*", "adamw", "scalar", rate_factor=0.2, beta2=0.99, eps=_SCALAR_EPS),
    Rule("backout_scale", "adamw", "scalar", rate_factor=0.2, beta2=0.99, eps=_SCALAR_EPS),
    Rule("blocks.*.value_gate.weight", "muon", "matrix"),
    Rule("blocks.*.attention.[qkv].weight", "muon", "matrix", heads="rows"),
    Rule("blocks.*.attention.out.weight", "muon", "matrix", heads="columns"),
    Rule("blocks.*.mlp.*.weight", "muon", "matrix"),
)


def rule_of(name: str) -> Rule:
    """The first rule that matches a parameter's name. Raises KeyError if none does."""
    for rule in RULES:
        if fnmatch.fnmatchcase(name, rule.pattern):
            return rule
    raise KeyError(f"no optimiser rule matches parameter {name!r}: add one to RULES")
