"""Bounded types that several settings share.

Every value has an upper bound: sums must not overflow, and the API server limits the estimated cost of CEL rules.
"""

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
MOST_EPOCHS = 100_000
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Path = Annotated[str, Field(min_length=1, max_length=1024)]
