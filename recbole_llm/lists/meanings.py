"""What an event can say of an item, and on which matters.

What holds of a user's opinion is the newest on each of three matters: whether they want the item,
whether they want its category, and whether it may be read from their history. ``undo`` answers all
three. Of what was said in the same second the last by name holds.
"""

MEANINGS = ("like", "dislike", "hide", "damp", "ignore", "undo")
"""Beside "", which says nothing."""
OF_HISTORY = ("", "like")
"""What an event says that is a part of the history."""
ABOUT = {"wish": ("like", "dislike", "hide"), "category_wish": ("damp",), "reading": ("ignore",)}
"""What answers each matter, beside ``undo``."""
