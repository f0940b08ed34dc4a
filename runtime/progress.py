"""How far a run is, as a bar on standard error."""

from types import TracebackType
from typing import Any

from tqdm import tqdm

from runtime.console import Console


class Progress:
    """A bar that is there from the loading of engines on, where standard error is a terminal.

    It counts the steps of one prompt, or the prompts of a file and beside them the steps of those that are rendered.
    """

    def __init__(
        self, console: Console, steps: int, *, many: bool = False, hint: str = "", hidden: bool = False
    ) -> None:
        self._console, self._steps, self._many, self._hint = console, steps, many, hint
        total, unit = (None, "prompt") if many else (steps, "step")
        # `disable=None` is tqdm's word for "only on a terminal"
        self._bar: Any = tqdm(total=total, unit=unit, desc="loading", disable=hidden or None, leave=False)

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

    def expect(self, count: int) -> None:
        """So many prompts of a file are to be rendered, or so many steps made of one."""
        self._bar.reset(count)

    def prompt_done(self) -> None:
        """A prompt of a file is done, or lost."""
        self._bar.update()
