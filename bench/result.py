"""One figure and what it is compared with in the same run."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """A measured value beside another of the same run.

    Attributes:
        name: Stable, for programs.
        value: The figure.
        unit: Of both figures.
        beside: Name and value of what it is compared with.
    """

    name: str
    value: float
    unit: str
    beside: tuple[str, float]

    @property
    def ratio(self) -> float:
        """How many times the figure beside it."""
        return self.value / self.beside[1] if self.beside[1] else 0.0

    def as_json(self) -> dict[str, Any]:
        """The form that is written to the file."""
        return {
            "name": self.name,
            "value": round(self.value, 1),
            "unit": self.unit,
            "beside": {"name": self.beside[0], "value": round(self.beside[1], 1)},
            "ratio": round(self.ratio, 3),
        }

    def __str__(self) -> str:
        beside = f"{self.ratio:6.2f} × {self.beside[0]} ({self.beside[1]:,.0f})"
        return f"{self.name:26} {self.value:>10,.0f} {self.unit:12} {beside}"
