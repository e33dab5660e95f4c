import pytest

from benchmarks.about import without_machine


@pytest.mark.parametrize(
    ("word", "published"),
    [
        ("/home/someone/sets/data", ".../data"),
        ("--data-path=/home/someone/sets/data", "--data-path=.../data"),
        ("llmseqrec:encoder=/home/someone/own.yaml", "llmseqrec:encoder=.../own.yaml"),
        ("../../someone/sets/data", ".../data"),
        ("../data", "../data"),
        ("--models", "--models"),
        ("llmseqrec:item_repr=id", "llmseqrec:item_repr=id"),
    ],
)
def test_a_published_command_names_no_folder_of_the_machine(word: str, published: str) -> None:
    assert without_machine(word) == published
