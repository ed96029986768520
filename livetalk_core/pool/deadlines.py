"""How long the workers may take: long for what may have to be compiled, then by how long it took before."""

from __future__ import annotations

from dataclasses import dataclass, field

SLOWER = 20
"""How much longer than the longest so far a piece or a reference may take before it counts as hung."""
Work = tuple[str, int, int]
"""What is done, `piece` or `reference`, and the picture's width and height."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Deadlines in seconds. A command that takes longer counts as hung and ends the pool."""

    load_s: float = 900
    reference_s: float = 300
    """For a picture's encoding at a size that has been met; at least SLOWER times the longest so far."""
    first_s: float = 900
    """For a piece or a picture of a size that has not been met: kernels may be compiled and chosen. No measured deadline is longer."""
    chunk_s: float = 60
    """For every other piece of a chunk; at least SLOWER times the longest so far."""
    other_s: float = 60
    idle_s: float = 10
    """For the reply of idle workers to a ping."""


@dataclass
class Deadlines:
    """The deadlines of one start of the workers, by what was measured since."""

    limits: Limits = Limits()
    longest: dict[Work, float] = field(default_factory=dict)
    """Seconds of the longest so far, for an effort of 1; none before a size has been met."""

    def limit_s(self, work: Work, effort: float = 1.0) -> float:
        """Long before the size is warm; then at least what the limits say. `effort`: how much more work it is than usual."""
        least = {"piece": self.limits.chunk_s, "reference": self.limits.reference_s}[work[0]]
        if work not in self.longest:
            return max(effort * self.limits.first_s, least)
        return max(least, effort * min(SLOWER * self.longest[work], self.limits.first_s))

    def note(self, work: Work, seconds: float, effort: float = 1.0) -> None:
        self.longest[work] = max(seconds / effort, self.longest.get(work, 0.0))
