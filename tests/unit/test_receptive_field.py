"""The context computed from the config against what a changed mel frame changes."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from bench.configs import BASE
from export.demo import CONFIGS
from export.receptive_field import vocoder_context_frames

DEMO = CONFIGS["vocoder"]
VOCODERS: dict[str, tuple[dict[str, Any], int]] = {
    "demo": (DEMO, 10),
    "published": ({**DEMO, **BASE["vocoder"], "upsample_initial_channel": 32}, 23),  # width does not matter
    "four rates": ({**DEMO, "upsample_rates": [5, 4, 4, 2], "upsample_kernel_sizes": [16, 16, 8, 4]}, 10),
    "uneven sides": ({**DEMO, "upsample_rates": [4, 4], "upsample_kernel_sizes": [5, 4]}, 10),  # 9 after
    "uneven dilations": (
        {
            **DEMO,
            "upsample_rates": [4, 4],
            "upsample_kernel_sizes": [8, 9],
            "resblock_dilation_sizes": [[1, 2], [1, 7]],
        },
        14,
    ),
    "wide kernels": (
        {
            **DEMO,
            "upsample_rates": [3, 2],
            "upsample_kernel_sizes": [16, 15],
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1]],
        },
        8,
    ),
}


@pytest.mark.parametrize("name", VOCODERS)
def test_a_frame_reaches_as_far_as_the_config_says(name: str) -> None:
    """One frame of ones amid silence through positive weights: nothing cancels, so all that it reaches is not zero."""
    config, expected = VOCODERS[name]
    model = SpeechT5HifiGan(SpeechT5HifiGanConfig(**config)).eval().double()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.fill_(0.0) if key.endswith("bias") else weight.fill_(1.0 / weight[0].numel())
        frames, middle, hop = 101, 50, int(np.prod(config["upsample_rates"]))
        mel = torch.zeros(1, frames, config["model_in_dim"], dtype=torch.float64)
        mel[0, middle] = 1.0
        reached = model(mel)[0].numpy().nonzero()[0] // hop
    assert max(middle - reached[0], reached[-1] - middle) == expected
    assert vocoder_context_frames(config) == expected
