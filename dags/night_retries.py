"""What is worth a retry: a lost machine is, bad data is not."""

import re

from airflow.sdk import Context, RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowTaskTimeout

FINAL_EXIT_CODES = {
    2: "bad settings",
    3: "bad data",
    4: "something it needs does not exist",
    5: "a bad artifact",
    6: "a failed audit",
}
"""Exit codes that a retry repeats, and what they say; see ``recbole_llm/errors.py``."""

_EXIT_CODE = re.compile(
    r"\ACannot execute: .*? Error code is: (\d+)\."
    r"|\ABash command failed\. The command returned a non-zero exit code (\d+)\.",
    re.DOTALL,
)


def exit_code(exception: BaseException | None) -> int | None:
    """The exit code of a task's command, which both operators hide in their exception's message."""
    found = _EXIT_CODE.match(str(exception))
    return int(found[1] or found[2]) if found else None


class RetryUnlessFinal(RetryPolicy):
    """Fail at once when another try would end as this one did.

    That is: the job itself said so by its exit code, a connection does not exist, or the time ran
    out for the second time. In Spark's cluster deploy mode the exit code does not reach Airflow,
    and every failure of a job is retried.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide from the exception alone."""
        code = exit_code(exception)
        if code in FINAL_EXIT_CODES:
            return RetryDecision.fail(
                f"exit code {code}, {FINAL_EXIT_CODES[code]}: a retry would fail in the same way"
            )
        if isinstance(exception, AirflowNotFoundException):
            return RetryDecision.fail("Airflow lacks what the task names, as a connection")
        if isinstance(exception, AirflowTaskTimeout) and try_number > 1:
            return RetryDecision.fail(
                "out of time twice: raise execution_timeout or make it faster"
            )
        return RetryDecision.default()
