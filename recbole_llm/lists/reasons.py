"""Why an item stands in a list, as the table's column ``reason`` names it.

A list may begin with the model's items and be filled up with the others.
"""

REASON_MODEL = "model"
REASON_POPULAR = "popular"
REASON_UNCAPPED = "uncapped"
"""Popular, of a category that has its share already."""
REASON_REPEAT = "repeat"
"""Popular, and met before: nothing else is left."""
