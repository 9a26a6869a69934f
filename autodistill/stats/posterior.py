"""How probable it is that a finalist is the best one."""

import numpy as np
from jaxtyping import Float

from autodistill.stats.fitting import fit

DRAWS = 20_000
SEED = 0


def probability_best(scores: Float[np.ndarray, "finalists seeds"]) -> Float[np.ndarray, " finalists"] | None:
    """Share of Monte Carlo draws in which each finalist has the largest effect.

    The effects' posterior under flat priors is their least-squares fit with a multivariate Student-t of the layout's
    pooled residual variance. The generator is seeded, so equal layouts give equal shares.

    Args:
        scores: NaN where there is no run.

    Returns:
        None: no residual degrees of freedom, or no shared seeds that connect all finalists.
    """
    fitted = fit(scores)
    finalists = scores.shape[0]
    if fitted.freedom < 1 or fitted.rank < finalists - 1:
        return None
    draw = np.random.default_rng(SEED)
    values, vectors = np.linalg.eigh(fitted.covariance)
    # The symmetric root: equal eigenvalues leave the eigenvectors open, and with them what a seed would draw.
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    noise = draw.normal(size=(DRAWS, finalists)) @ root
    spread = np.sqrt(fitted.within / draw.chisquare(int(fitted.freedom), size=(DRAWS, 1)))
    best = (fitted.effects + spread * noise).argmax(axis=1)
    return np.asarray(np.bincount(best, minlength=finalists) / DRAWS)
