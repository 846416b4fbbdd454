"""Exit statuses of an attempt and the operator's action for each."""

from hack.codegen.reference.tables import table
from resnext_operator.domain.attempt_cause import CAUSES, REASONS
from resnext_operator.domain.attempt_outcome import PERMANENT_EXIT_STATUSES
from resnext_trainer.contract import ExitStatus


def page() -> str:
    """Every exit status with its cause, its reason, and whether another attempt follows."""
    rows = [
        (str(status.value), f"`{CAUSES[status].value}`", f"`{REASONS[CAUSES[status]].value}`", _next(status))
        for status in ExitStatus
    ]
    return (
        "# Exit statuses\n\n"
        "`resnext-train train` and the launcher exit with one of these statuses. The cause is the value of\n"
        "`status.attempts[].cause` and of the label `cause` of `resnext_operator_attempts_finished_total`.\n"
        "[Reasons](reasons.md) describes the reasons.\n\n"
        + "\n".join(table(("Exit status", "Cause", "Reason", "Next"), rows))
        + "\nIf a lost or OOMKilled pod explains the exit status, the operator records the cause `disrupted` or\n"
        "`out_of_memory` instead. In a shell, `resnext-train` and `resnext-operator` also exit with 1 if standard\n"
        "output is closed or its disk is full, and with 141 if the reader of their output exits early. After Ctrl-C,\n"
        "`resnext-train train` and the launcher save a checkpoint and exit with 75; other commands, such as\n"
        "`evaluate`, exit with 130.\n"
    )


def _next(status: ExitStatus) -> str:
    if status is ExitStatus.COMPLETED:
        return "The training succeeds."
    if status is ExitStatus.STOPPED:
        return "The training is suspended, exceeds its deadline, or starts another attempt."
    if status in PERMANENT_EXIT_STATUSES:
        return "The training fails."
    return "Another attempt starts, up to `runPolicy.backoffLimit`."
