"""The Grafana dashboards, for Grafana 11 and later."""

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from hack.codegen.dashboards import fleet, operator, training
from hack.codegen.dashboards.board import Board


def files() -> dict[str, str]:
    """Name and content of the file of each dashboard."""
    return {f"{board.uid}.json": _json(board) for board in (training.board(), fleet.board(), operator.board())}


def _json(board: Board) -> str:
    return JSONEncoder(indent=2, ensure_ascii=False).encode(board.build()) + "\n"
