"""An attempt that must not go on: the verdict it ends with, and the sentence for the user."""

from resnext_trainer.report import Verdict


class Refused(Exception):
    """Ends the attempt with a verdict; the message says where, what, why and the way out."""

    def __init__(self, verdict: Verdict, message: str, *, agreed: bool = False, rank: int | None = None) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.message = message
        self.agreed = agreed
        """Every rank raises this alike, so that all can end in order."""
        self.rank = rank
        """The rank whose fault it is, where it is known and not that of all."""
