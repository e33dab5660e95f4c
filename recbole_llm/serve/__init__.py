"""A service that ranks in real time: an artifact and, where there is one, the published table.

Needs FastAPI beside what ranking needs; neither RecBole nor Spark.
"""
