"""One page about everything that was measured: benchmarks, training, a night, some users.

Needs jinja2 and matplotlib; neither RecBole nor torch nor Spark.
"""
