"""A night's three jobs in one Spark application; submitted by ``test_cluster.py``."""

import sys

from spark_jobs.job import Job, run_job
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score


def _night(job: Job) -> None:
    for step in (prepare, score, publish):
        step(job)


if __name__ == "__main__":
    sys.exit(run_job("night", _night, sys.argv[1:]))
