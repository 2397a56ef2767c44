# SPDX-License-Identifier: Apache-2.0
"""What a user would try first: popularity, item cosine, iALS and EASE.

Each takes the matrix of who has seen what, `[num_users, num_items]` bool, and
returns scores of the same shape.
"""

import numpy as np
import numpy.typing as npt

Seen = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating]


def popularity(seen: Seen) -> Scores:
    """Scores each item by how many users have seen it."""
    counts = seen.sum(axis=0, dtype=np.float64)
    return np.broadcast_to(counts, seen.shape)


def item_cosine(seen: Seen) -> Scores:
    """Sums the cosines between an item and each item the user has seen."""
    matrix = seen.astype(np.float64)
    norms = np.linalg.norm(matrix, axis=0)
    unit = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
    similarity = unit.T @ unit
    np.fill_diagonal(similarity, 0.0)
    return matrix @ similarity


def ease(seen: Seen, *, regularisation: float = 100.0) -> Scores:
    """EASE: the closed-form linear autoencoder without a diagonal.

    Source: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data",
    WWW 2019, equation 8. The default was chosen on the validation items.
    """
    matrix = seen.astype(np.float64)
    gram = matrix.T @ matrix
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return matrix @ weights


def ials(
    seen: Seen,
    *,
    seed: int,
    num_factors: int = 32,
    regularisation: float = 0.01,
    alpha: float = 1.0,
    num_iterations: int = 15,
) -> Scores:
    """iALS: matrix factorisation of implicit feedback by alternating solves.

    A seen item has the target 1 and the confidence `alpha`, any other the
    target 0 and the confidence 1. The defaults were chosen on the validation
    items.

    Source: Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit
    Feedback Datasets", ICDM 2008, equations 4 and 5.

    Args:
      seen: who has seen what.
      seed: of the factors to start from.
      num_factors: width of the factors.
      regularisation: weight of the factors' squared norms.
      alpha: confidence of a seen item.
      num_iterations: passes over users and items.
    """
    generator = np.random.default_rng(seed)
    users = generator.normal(0, 0.01, (seen.shape[0], num_factors))
    items = generator.normal(0, 0.01, (seen.shape[1], num_factors))
    for _ in range(num_iterations):
        users = _solve(seen, items, regularisation, alpha)
        items = _solve(seen.T, users, regularisation, alpha)
    return users @ items.T


def _solve(
    seen: Seen, fixed: np.ndarray, regularisation: float, alpha: float
) -> np.ndarray:
    """Solves for the rows' factors with the columns' fixed."""
    base = fixed.T @ fixed + regularisation * np.eye(fixed.shape[1])
    right = alpha * (seen @ fixed)
    if alpha == 1:
        # Every confidence is 1, so that all rows share one matrix.
        return np.linalg.solve(base, right.T).T
    solved = np.empty_like(right)
    for row, mask in enumerate(seen):
        own = fixed[mask]
        solved[row] = np.linalg.solve(
            base + (alpha - 1) * own.T @ own, right[row]
        )
    return solved
