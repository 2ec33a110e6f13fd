"""What ``pg_tqdb_status`` says: how the statement before it on this session was executed.

The law of this module: records and their rows; who answers the question is `local`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tqdbproxy.core.statement import Reason
from tqdbproxy.core.writebatch.types import Company

COLUMNS = ("variable_name", "value")


@dataclass(frozen=True, slots=True)
class Status:
    """``backend``: who answered; empty texts where a line says nothing."""

    shard: str
    backend: str = "none"
    company: Company | None = None
    reason: Reason | None = None

    @classmethod
    def batched(cls, shard: str, company: Company) -> Status:
        """Of a write that was executed in company."""
        return cls(shard, "write-batch", company)

    def rows(self) -> tuple[tuple[str, str], ...]:
        """The rows of the view."""
        company = self.company
        return (
            ("Shard", self.shard),
            ("Backend", self.backend),
            ("LastBatchSize", str(company.size) if company else ""),
            ("LastBatchWaitMs", f"{company.waited_s * 1000:.3f}" if company else ""),
            ("LastStrategy", company.strategy.value if company else ""),
            ("Reason", self.reason.value if self.reason else ""),
        )
