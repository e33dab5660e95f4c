"""What may be recommended on a day, and users' lists by a night's rules.

Needs torch, numpy and pyarrow; neither RecBole nor transformers nor Spark.
"""
