"""AudioLDM and MusicLDM: CLAP's embedding of the text is the UNet's class label."""

from runtime.text.conditioning import CLASS, Conditioning
from runtime.text.encoder import PromptEncoder


class LabelEncoder(PromptEncoder):
    """Runs CLAP's text tower, the one text engine."""

    def _encode(
        self, prompt: str, negative_prompt: str | None, max_new_tokens: int, transcription: str | None = None
    ) -> Conditioning:
        del max_new_tokens, transcription  # of AudioLDM2
        return Conditioning(
            {CLASS: self.text_embeds([*([] if negative_prompt is None else [negative_prompt]), prompt])}
        )

    def encode_negative(self, text: str, positive: Conditioning, max_new_tokens: int) -> Conditioning:
        """As PromptEncoder says."""
        del positive, max_new_tokens
        return Conditioning({CLASS: self.text_embeds([text])})
