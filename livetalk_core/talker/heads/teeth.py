"""Teeth: single ones with gums above them, painted where a pixel lies on the row. Places are on the shared mesh at rest.

Axes: P places.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.zones import step

EDGES = {True: (0.0, 0.088, 0.155, 0.232, 0.305, 0.38, 0.48, 0.6), False: (0.0, 0.056, 0.116, 0.186, 0.26, 0.335, 0.44, 0.56)}
"""Where one tooth ends and the next begins, along the row from its middle; upper and lower."""
GUM = (0.42, 0.15, 0.14)


def tooth_color(places_P3: Tensor, upper: bool, person: Person) -> Tensor:
    """[P, 3] linear."""
    rng = np.random.default_rng([person.seed, 19])
    yellow = float(np.clip(rng.normal(0.35 + person.age / 160, 0.2), 0, 1))
    enamel = torch.tensor((0.66, 0.61 - 0.05 * yellow, 0.54 - 0.16 * yellow)) * float(rng.uniform(0.85, 1.05))
    x, y, z = places_P3.unbind(1)
    along = 0.33 * torch.atan2(x.abs(), (z - 1.14).clamp(min=1e-3)).clamp(0, 2.0)
    edges = torch.tensor(EDGES[upper])
    which = (torch.bucketize(along, edges) - 1).clamp(0, len(edges) - 2)
    middle, half = (edges[which] + edges[which + 1]) / 2, (edges[which + 1] - edges[which]) / 2
    off = ((along - middle) / half).abs()
    gap = step(off, 0.90, 1.0)
    gum_line = (6.692 if upper else 6.545) + (0.018 if upper else -0.014) * (1 - off**2)
    gum = step(y, gum_line - 0.006, gum_line + 0.006) if upper else step(y, gum_line + 0.006, gum_line - 0.006)
    round_off = 1 - 0.22 * off**2
    body = enamel * round_off[:, None] * (1 - gap[:, None] * torch.tensor((0.38, 0.46, 0.50)))
    return body + (torch.tensor(GUM) - body) * gum[:, None]
