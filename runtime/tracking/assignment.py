"""The best pairs of two sets: exact, and fast where few pairs are possible, as among tracks and detections."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def best_pairs(values: Values, least: float) -> list[tuple[int, int]]:
    """The pairs (row, column), rows ascending, that are worth most together; each row and column in one at most.

    `values` [n, m] are finite; pairs worth less than `least` (above 0) are not made.
    """
    possible = values >= least
    pairs: list[tuple[int, int]] = []
    for rows, columns in _groups(possible):
        if len(rows) == 1 or len(columns) == 1:
            block = values[np.ix_(rows, columns)]
            best = int(block.argmax())
            pairs.append((rows[best // len(columns)], columns[best % len(columns)]))
            continue
        block = np.where(possible[np.ix_(rows, columns)], values[np.ix_(rows, columns)], 0.0)
        chosen = _assign(-block) if len(rows) <= len(columns) else [(r, c) for c, r in _assign(-block.T)]
        pairs += [(rows[r], columns[c]) for r, c in chosen if block[r, c] > 0]
    return sorted(pairs)


def _groups(possible: npt.NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Rows and columns that possible pairs tie together, group by group; what has no possible pair is in none.

    A crowd of 200 falls into groups of a few, so that the exact method's cubic cost doesn't matter.
    """
    groups: list[tuple[list[int], list[int]]] = []
    left = set(np.flatnonzero(possible.any(axis=1)).tolist())
    while left:
        reached, new = np.zeros(possible.shape[1], np.bool_), [left.pop()]
        rows = list(new)
        while new:
            reached |= possible[new].any(axis=0)
            new = [row for row in np.flatnonzero(possible[:, reached].any(axis=1)).tolist() if row in left]
            left.difference_update(new)
            rows += new
        groups.append((sorted(rows), np.flatnonzero(reached).tolist()))
    return groups


def _assign(cost: Values) -> list[tuple[int, int]]:
    """A column for every row at the least total cost; float64 [n, m], n <= m.

    Shortest augmenting paths with potentials (the Hungarian method): rows are added one by one, and those before make
    room along the cheapest path.
    """
    count, width = cost.shape
    row_potential, column_potential = np.zeros(count), np.zeros(width)
    owner = np.full(width, -1)  # the row that each column belongs to
    for start in range(count):
        row, column = start, -1
        distance, came_from = np.full(width, np.inf), np.full(width, -1)
        done = np.zeros(width, np.bool_)
        passed: list[int] = []  # columns on the tree, whose rows' potentials move
        reached = 0.0
        while True:
            through = reached + cost[row] - row_potential[row] - column_potential
            shorter = ~done & (through < distance)
            distance[shorter] = through[shorter]
            came_from[shorter] = column
            column = int(np.where(done, np.inf, distance).argmin())
            reached = float(distance[column])
            done[column] = True
            if owner[column] < 0:
                break
            passed.append(column)
            row = int(owner[column])
        row_potential[start] += reached
        for other in passed:
            row_potential[owner[other]] += reached - distance[other]
            column_potential[other] -= reached - distance[other]
        while column >= 0:
            before = int(came_from[column])
            owner[column] = start if before < 0 else owner[before]
            column = before
    return sorted((int(row), column) for column, row in enumerate(owner) if row >= 0)
