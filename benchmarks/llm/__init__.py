"""What teaching the language model a domain brings: ``python -m benchmarks.llm``."""
