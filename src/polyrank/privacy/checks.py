"""What cannot be kept private is refused before any work is done."""

from __future__ import annotations

from polyrank.aggregation import Method
from polyrank.aggregation.align import Aligned
from polyrank.aggregation.optimised.wrapper import Optimised
from polyrank.config import Config
from polyrank.core.errors import ConfigError

PUBLIC_POLICIES = ("fixed", "random", "declared")
"""Rank policies that do not look at anybody's data."""


def check(config: Config, method: Method) -> None:
    """Refuse what would tell of single clients beside the noised sum.

    Raises:
        ConfigError: the method is no weighted sum with weights that are known beforehand, weights are numbers of
            examples without a bound, or the rank policy looks at the clients' data and that was not accepted.
    """
    options = config.privacy
    if options.model == "none":
        return
    method = method.method if isinstance(method, Optimised) else method  # it steps along what is noised already
    inner = method.method if isinstance(method, Aligned) else method
    name, info = config.aggregation.method, inner.info
    if options.model == "central" and config.secure.enabled:
        raise ConfigError(
            "privacy.model central: the server clips each client's update, and with secure.enabled it sees none; "
            "expected privacy.model local, or no masks"
        )
    if options.model == "central" and config.aggregation.robust != "none":
        raise ConfigError(
            f"privacy.model central: with aggregation.robust {config.aggregation.robust} the clients are compared with "
            "one another, and what one of them changes in the result has no known bound; expected none"
        )
    weighs = info.own_weights or info.judges
    if options.model == "central" and (not info.fixed_sums or weighs or not adds_up(inner)):
        why = (
            "weighs clients by what they learned"
            if weighs
            else "is no sum over clients, in which what one of them changes has a bound"
        )
        raise ConfigError(
            f"privacy.model central: aggregation.method {name} {why}; expected a method of sums, such as ffa, fedsvd, "
            "rolora, owner_mean or replication"
        )
    if info.chooses_indices:
        raise ConfigError(
            f"privacy.model {options.model}: with aggregation.method {name} a client tells which rank indices its data "
            "chose, which nothing hides; expected a method of the first ones, such as owner_mean"
        )
    if options.model == "central" and not info.first_indices:
        raise ConfigError(
            f"privacy.model central: with aggregation.method {name} a client owns others than the first rank indices, "
            "and the ranks say what a sum is divided by; expected a method of the first ones, such as owner_mean"
        )
    if options.model == "central" and isinstance(method, Aligned) and method.how == "rectangular":
        raise ConfigError(
            "privacy.model central: with align = rectangular every client owns all rows, so ranks say nothing of who "
            "owns what; expected align = none or rotation"
        )
    if config.aggregation.weights == "examples" and (options.most_examples is None or options.model == "local"):
        also = " (or privacy.most_examples, which bounds them)" if options.model == "central" else ""
        raise ConfigError(
            f"privacy.model {options.model}: aggregation.weights is examples, and numbers of examples are the clients' "
            f"own; expected uniform{also}"
        )
    if config.ranks.policy not in PUBLIC_POLICIES and "ranks" not in options.accept:
        raise ConfigError(
            f"privacy.model {options.model}: ranks.policy {config.ranks.policy} looks at the clients' data, and ranks "
            'are no secret; expected fixed or random, or privacy.accept = ["ranks"]'
        )
    if options.model == "central" and options.most_examples is not None and config.aggregation.weights == "uniform":
        raise ConfigError(
            "privacy.most_examples weighs clients by their examples, and aggregation.weights is uniform; expected "
            "one of them"
        )
    _check_what_stays(config, method)
    if options.model == "local" and (options.quantile is not None or options.most_examples is not None):
        raise ConfigError("privacy.model local: found quantile or most_examples, which the central model has alone")


def _check_what_stays(config: Config, method: Method) -> None:
    """Refuse what is measured of models that no noise hides: those of which a part stays with each client."""
    options = config.privacy
    stays = method.keeps(local_head=config.federation.head == "local")
    if stays and ("metrics" not in options.accept or (options.model == "central" and options.sampling == "poisson")):
        fixed = " and privacy.sampling fixed, as a round of nobody has no such models" * (options.model == "central")
        raise ConfigError(
            f"privacy.model {options.model}: {' and '.join(sorted(stays))} would stay with each client, and what is "
            "measured of a round are the models of those who came, which no noise hides; expected federation.head mean "
            f'and a method that keeps nothing, or privacy.accept = ["metrics"]{fixed}'
        )


def adds_up(method: Method) -> bool:
    """Whether what the method adds up are sums of numbers, of known names and shapes."""
    from polyrank.aggregation.kernels.rows import RowMethod

    return isinstance(method, RowMethod)
