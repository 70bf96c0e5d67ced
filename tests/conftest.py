"""Model directories that several packages' tests share: tiny random ones, made once a session, and the demo model."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported: on two cores the tests' own processes would otherwise take turns waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A script's `make test &` starts us with SIGINT ignored, which processes that the tests interrupt would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_VOCABULARY = 260
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(autouse=True)
def usual_recursion_limit() -> None:
    """py-evm raises it for good when it is imported, and json's decoder then overflows the C stack and never raises."""
    sys.setrecursionlimit(1_000)


def write_byte_tokenizer(directory: Path) -> None:
    """A tokenizer with one token a byte and a chat template: no download, every text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    for special in ("<bos>", "<eos>", "<pad>", "<unk>"):
        vocabulary[special] = len(vocabulary)
    assert len(vocabulary) == TINY_VOCABULARY
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)


def write_tiny_llama(directory: Path, **changes: Any) -> Path:
    """A random Llama of 8 layers in Hugging Face layout, its weights scaled so that greedy tokens vary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": TINY_VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
        "initializer_range": 0.15,
    }
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))
    torch.random.set_rng_state(generator_state)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random Llama with a byte tokenizer; context 512."""
    directory = write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")
    write_byte_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model_without_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, but only configuration and tensors: it serves token ids and returns them."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-ids")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Directory of SmolLM2-135M-Instruct in Hugging Face layout, made from its registry package on first use."""
    from deserve_models import resolve

    return resolve("demo").directory


@pytest.fixture(scope="session")
def reference_model() -> Callable[[Path], Any]:
    """Loads a directory with transformers alone, in float32, once a session."""
    loaded: dict[Path, Any] = {}

    def load(directory: Path) -> Any:
        if directory not in loaded:
            from transformers import AutoModelForCausalLM

            loaded[directory] = AutoModelForCausalLM.from_pretrained(directory, dtype="float32").eval()
        return loaded[directory]

    return load
