"""What turns prompts into conditioning, by the family of the bundle's model."""

from collections.abc import Mapping

from runtime.backends.device import Device
from runtime.backends.engine import Engine
from runtime.backends.graphs import Graphs
from runtime.bundle import Bundle
from runtime.text.audioldm import LabelEncoder
from runtime.text.audioldm2 import LanguageEncoder
from runtime.text.encoder import PromptEncoder
from runtime.text.tokenizer import open_tokenizers

ENCODERS: Mapping[str, type[PromptEncoder]] = {
    "audioldm": LabelEncoder,
    "audioldm2": LanguageEncoder,
    "musicldm": LabelEncoder,
}


def open_encoder(
    bundle: Bundle, engines: Mapping[str, Engine], device: Device, graphs: Graphs | None = None
) -> PromptEncoder:
    """The encoder of a bundle's family, with the bundle's tokenizers."""
    return ENCODERS[bundle.manifest.family](engines, *open_tokenizers(bundle), device, graphs)
