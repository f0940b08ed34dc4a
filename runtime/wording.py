"""Words at the program's edge: which texts may come in, and how texts and errors are shown in one line."""

import os

from runtime.errors import AudioLDM2Error, InputError

LONGEST_TEXT, LONGEST_ERROR = 120, 1000  # characters that a message quotes of a text, and takes from an error


def check_text(name: str, text: str) -> None:
    """Raise InputError unless every character of the text is a whole one.

    A Python `str` may hold half a surrogate pair, from an escape in JSON or from bytes that are no UTF-8. No tokenizer,
    file or terminal takes it.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise InputError(
            f"{name} holds half a character, U+{half:04X}, at position {error.start + 1}: write the text as UTF-8"
        ) from error


def text_of_argument(name: str, argument: str) -> str:
    """A word of the command line as the UTF-8 text that its bytes are, whatever the terminal's encoding is said to be.

    Raises InputError that names the first byte which is no UTF-8.
    """
    if not any("\ud800" <= character <= "\udfff" for character in argument):
        return argument
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError as error:
        where = f": {byte_at_fault(error)}" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"{name} is no UTF-8 text{where}") from error


def byte_at_fault(error: UnicodeDecodeError) -> str:
    """Which byte could not be decoded, and where it is, counted from 1."""
    return f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"


def readable(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text as a message quotes it: what cannot be seen is escaped, and a long text is cut in its middle."""
    if len(text) > longest:
        half = (longest - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return escaped(text)


def escaped(text: str) -> str:
    """The whole text in one line: what cannot be seen is escaped, also bytes that are no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(error: BaseException) -> str:
    """What a user is told of an error, never empty. An exception that is not ours is named by its type."""
    text = " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.strerror and not isinstance(error, AudioLDM2Error):
        text = error.strerror if error.filename is None else f"{error.strerror}: '{error.filename}'"
    text = readable(text, LONGEST_ERROR)
    if isinstance(error, AudioLDM2Error | OSError) and text:
        return text
    name = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return f"{name}: {text}" if text else name


def last_words(error: BaseException) -> str:
    """What a program says of the error that ends it. One that nobody foresaw comes with the way to its place."""
    foreseen = isinstance(error, AudioLDM2Error | OSError | MemoryError)
    return one_line(error) if foreseen else f"{one_line(error)} (--debug tells where)"
