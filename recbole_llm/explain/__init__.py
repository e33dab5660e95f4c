"""Why an item stands in a list: which part of its score came from where.

Needs an artifact, and captum; neither RecBole nor, but for the words that a language model read,
transformers.
"""
