"""Forms with a sound in them, as browsers and curl's -F send them."""

from collections.abc import AsyncGenerator

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from runtime.errors import InputError
from runtime.server.fields import Edit, read_form
from runtime.wording import readable

SOUND = "audio"  # the field that holds it
MOST_FIELDS = 50


async def read_edit(request: Request, body: bytes) -> tuple[bytes, Edit]:
    """The sound in a form, and its fields. Raises InputError for what is no such form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InputError("the body has to be a form, multipart/form-data, with the sound as its file 'audio'")
    form = await _parsed(request, body)
    sound, fields = b"", {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) != (name == SOUND):
            is_file = isinstance(value, UploadFile)
            raise InputError(f"{readable(name)} has to be {'a text, and is a file' if is_file else 'a file'}")
        if name in fields or (name == SOUND and sound):
            raise InputError(f"{readable(name)} is given twice")
        if isinstance(value, UploadFile):
            sound = await value.read()
        else:
            fields[name] = value
    if not sound:
        raise InputError("audio is missing: send the sound as a file of that name")
    return sound, read_form(fields)


async def _parsed(request: Request, body: bytes) -> FormData:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, whole(), max_files=1, max_fields=MOST_FIELDS)
    parser.spool_max_size = len(body)  # nothing goes to a disk
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InputError(f"the form is not right: {readable(error.message, 200)}") from error
