"""`trt-audioldm2 PROMPT`: text to an audio file. Only the door is in here; `runtime.commands` holds what happens."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Make sound as a command line says.

    Returns the exit status: 0; 1 for an error; 130 for Ctrl-C and 143 for SIGTERM; 141 if the reader of the results has
    gone. A wrong command line raises SystemExit with status 2.
    """
    try:
        from runtime.commands import run  # in here: Ctrl-C finds the guard in place even while this is imported

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("interrupted: no file was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
