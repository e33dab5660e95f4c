"""The nightly Spark jobs: prepare features, score users, publish."""
