"""Why an item stands in a list, as the table's column ``reason`` names it.

The sources of a list, of which the one is named that gave most; and what fills a list up where they
have too little.
"""

from recbole_llm.lists.strategy import COLLABORATIVE, CONTENT, MODEL, POPULAR, RECENT

REASON_MODEL = MODEL
REASON_POPULAR = POPULAR
PERSONAL = (MODEL, CONTENT, COLLABORATIVE)
"""Reasons that look at what the user met."""
OF_SOURCES = (*PERSONAL, RECENT, POPULAR)
REASON_UNCAPPED = "uncapped"
"""Popular, of a category that has its share already."""
REASON_REPEAT = "repeat"
"""Popular, and met before: nothing else is left."""
