"""Words' parts add up to what a text adds to a score: exactly for TF-IDF, nearly for an encoder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recbole_llm.encoder import EncoderSpec, find_encoder, locate_weights
from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.explain.words import LanguageWords, Word, Words, join, split, word_parts
from recbole_llm.item_parts import ItemParts, TextPart, read_parts
from recbole_llm.scoring import load_artifact
from recbole_llm.text_encoder import load_sentence_transformer
from recbole_llm.tfidf import fit_tfidf
from tests.recbole_llm.explain.conftest import train_cycle

STATE = torch.linspace(-1, 1, 16)


def _parts(path: Path) -> ItemParts:
    return read_parts(path, load_artifact(path))


def _language(path: Path) -> tuple[LanguageWords, TextPart, ItemParts]:
    parts = _parts(path)
    source = parts.sources[0]
    spec = find_encoder(source.encoder)
    model = load_sentence_transformer(locate_weights(spec), spec, "cpu")
    return LanguageWords(model, source), source, parts


def test_words_by_hand() -> None:
    _, terms, _ = fit_tfidf(["steel hinge", "steel bolt", "brass bolt"])
    assert terms.words == ["bolt", "brass", "hinge", "steel"]
    matrix = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
    source = TextPart("tfidf", matrix, torch.tensor([0.5, 0.5]), torch.zeros(2), None, terms)
    found = word_parts(source, "Steel bolt, steel: new!", torch.tensor([10.0, 1.0]))
    # idf of both is 1 + ln(4 / 3); steel stands twice: 1 + ln 2. The weights have length 1.
    steel, bolt = 1.693147 / 1.966406, 1 / 1.966406
    assert [(word.start, word.text) for word in found.words] == [
        (0, "Steel"), (6, "bolt"), (10, ","), (12, "steel"), (17, ":"), (19, "new"), (22, "!")
    ]  # fmt: skip
    told = [word.of["tfidf"] for word in found.words]
    assert told == pytest.approx([2 * steel, 10 * bolt, 0, 2 * steel, 0, 0, 0], abs=1e-5)
    assert found.rest["tfidf"] == pytest.approx(5.5)
    assert found.total["tfidf"] == pytest.approx(sum(told) + 5.5)


def test_tfidf_s_words_add_up_to_its_part_of_the_score(trained: Path) -> None:
    parts, artifact = _parts(trained), load_artifact(trained)
    source = parts.sources[1]
    for item_id in ("i3", "i11", "cold"):
        row = artifact.item_ids.index(item_id) + 1
        vector = parts.of(torch.tensor([row]), artifact.item_matrix)["tfidf"][0]
        found = word_parts(source, parts.text(row), STATE)
        told = sum(word.of["tfidf"] for word in found.words) + found.rest["tfidf"]
        assert told == pytest.approx(float(vector @ STATE), abs=1e-5)
        assert found.rest["tfidf"] == pytest.approx(float(source.offset @ STATE))


def test_a_language_model_s_words_add_up_nearly(trained: Path) -> None:
    words, source, parts = _language(trained)
    assert source.vectors is not None
    name, row = source.encoder, load_artifact(trained).item_ids.index("i3") + 1
    kept = source.vectors[row].float()
    found = words(parts.text(row), STATE, kept)
    assert [word.text for word in found.words] == ["Film", "i3", "of", "the", "cycle"]
    told = sum(word.of[name] for word in found.words) + found.rest[name]
    lifted = abs(found.total[name] - found.rest[name])
    assert abs(told - found.total[name]) < 0.05 * lifted
    # Half precision, and what is left of it after a product with both signs.
    assert found.total[name] == pytest.approx(float(kept @ STATE), abs=0.01)
    assert found.error[name] < 0.05


def test_another_encoder_is_found_out(trained: Path, tiny_encoders: dict[str, Path]) -> None:
    words, source, parts = _language(trained)
    other = EncoderSpec(str(tiny_encoders["qwen3"]))
    model = load_sentence_transformer(tiny_encoders["qwen3"], other, "cpu")
    wrong = LanguageWords(model, source)
    assert source.vectors is not None
    kept = source.vectors[1].float()
    with pytest.raises(ArtifactError, match=r"reads a text otherwise .* off by .* train again"):
        wrong(parts.text(1), STATE, kept)
    assert words(parts.text(1), STATE, kept).words


def test_an_encoder_that_tells_no_words(trained: Path, tiny_encoders: dict[str, Path]) -> None:
    _, source, _ = _language(trained)
    bert = tiny_encoders["bert"]
    model = load_sentence_transformer(bert, EncoderSpec(str(bert)), "cpu")
    model[0].model = None
    with pytest.raises(ConfigError, match="does not tell which token is which word"):
        LanguageWords(model, source)


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_the_hidden_word_s_share(
    trained: Path, tiny_encoders: dict[str, Path], architecture: str
) -> None:
    """Of a text with one word, all that lies between it and the hidden word is that word's."""
    encoder = tiny_encoders[architecture]
    spec = EncoderSpec(str(encoder))
    model = load_sentence_transformer(encoder, spec, "cpu")
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    source = TextPart("reader", matrix, torch.zeros(16), torch.zeros(16), None)
    said = [torch.from_numpy(model.encode(text)) @ matrix for text in ("film", "[MASK]")]
    found = LanguageWords(model, source)("film", STATE, said[0])
    (word,) = found.words
    assert word.of["reader"] == pytest.approx(float((said[0] - said[1]) @ STATE), rel=0.03)
    assert found.rest["reader"] == pytest.approx(float(said[1] @ STATE), abs=1e-4)


def test_words_and_signs() -> None:
    assert split("Don't  stop—6ft (1.5m)") == [
        (0, "Don"), (3, "'"), (4, "t"), (7, "stop"), (11, "—"), (12, "6ft"), (16, "("), (17, "1"),
        (18, "."), (19, "5m"), (21, ")"),
    ]  # fmt: skip
    one = Words([Word(0, "a", {"x": 1.0})], {"x": 0.5}, {"x": 1.5}, {"x": 0.0})
    other = Words([Word(0, "a", {"y": 2.0})], {"y": 0.0}, {"y": 2.0}, {"y": 0.1})
    assert join([one, other]) == Words(
        [Word(0, "a", {"x": 1.0, "y": 2.0})],
        {"x": 0.5, "y": 0.0}, {"x": 1.5, "y": 2.0}, {"x": 0.0, "y": 0.1},
    )  # fmt: skip


def test_words_of_a_real_language_model(tmp_path: Path) -> None:
    path = train_cycle(tmp_path, "minilm", epochs=2, hidden_size=16)
    words, source, parts = _language(path)
    assert source.vectors is not None
    row = load_artifact(path).item_ids.index("i11") + 1
    kept = source.vectors[row].float()
    found = words(parts.text(row), STATE, kept)
    assert [word.text for word in found.words] == ["Film", "i11", "of", "the", "cycle"]
    assert found.error["minilm"] < 0.05
    # Products in bfloat16 made what is kept.
    lifted = float(kept.norm() * STATE.norm())
    assert found.total["minilm"] == pytest.approx(float(kept @ STATE), abs=0.05 * lifted)
    # No other text of the data set says i11: it tells this one from the rest.
    strongest = max(found.words, key=lambda word: abs(word.of["minilm"]))
    assert strongest.text == "i11"


def test_fine_tuned_words_are_read_with_the_adapter(
    tmp_path: Path, tiny_encoders: dict[str, Path]
) -> None:
    settings = {"encoder.finetune": "lora", "encoder.lora_r": 2, "encoder.learning_rate": 0.05}
    path = train_cycle(tmp_path, str(tiny_encoders["bert"]), epochs=2, **settings)
    source, artifact = _parts(path).sources[0], load_artifact(path)
    spec = replace(find_encoder(source.encoder), adapter=str(path / "adapter"))
    model = load_sentence_transformer(locate_weights(spec), spec, "cpu")
    assert source.vectors is not None
    row = artifact.item_ids.index("i3") + 1
    kept = source.vectors[row].float()
    found = LanguageWords(model, source)("Film i3 of the cycle", STATE, kept)
    assert found.total[source.encoder] == pytest.approx(float(kept @ STATE), abs=0.01)
