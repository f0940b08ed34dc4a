"""How far a run is, as a bar on standard error."""

from types import TracebackType
from typing import Any

from tqdm import tqdm

from runtime.console import Console


class Progress:
    """A bar that is there from the loading of engines on, where standard error is a terminal.

    It counts the steps of one prompt, or the prompts of a file and beside them the steps of those that are rendered.
    """

    def __init__(self, console: Console, *, many: bool = False, hidden: bool = False) -> None:
        self._console, self._many, self._hint, self._steps = console, many, "", 0
        # `disable=None` is tqdm's word for "only on a terminal"
        unit = "prompt" if many else "step"
        self._bar: Any = tqdm(total=None, unit=unit, desc="loading", disable=hidden or None, leave=False)

    def __enter__(self) -> "Progress":
        self._console.bar = None if self._bar.disable else self._bar
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._console.bar = None
        self._bar.close()

    def step(self, completed: int, *_: object) -> None:
        """A step is done: the callback of a call."""
        self._bar.set_description_str(f"denoising{self._hint}", refresh=False)
        if self._many:
            self._bar.set_postfix_str(f"step {completed + 1} of {self._steps}")
        else:
            self._bar.update()

    def expect(self, steps: int, *, prompts: int | None = None, hint: str = "") -> None:
        """So many steps are to be made of one prompt, or of each of the `prompts` of a file; `hint` is said beside."""
        self._steps, self._hint = steps, hint
        self._bar.reset(steps if prompts is None else prompts)

    def prompt_done(self) -> None:
        """A prompt of a file is done, or lost."""
        self._bar.update()
