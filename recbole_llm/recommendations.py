"""The columns of the table that a night writes, for those who write it and those who copy it."""

import pyarrow as pa

RECOMMENDATIONS = pa.schema(
    [
        ("ds", pa.date32()),
        ("user_id", pa.string()),
        ("rank", pa.int16()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
        ("reason", pa.string()),
        ("model_version", pa.string()),
        ("run_id", pa.string()),
        ("generated_at", pa.timestamp("us", tz="UTC")),
        # Which items of the history carried the score, in words; null where it was not asked for.
        ("why", pa.string()),
    ]
)
