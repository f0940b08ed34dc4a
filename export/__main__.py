"""`python -m export build | verify | inspect`. Only the door is in here; `export.commands` holds what happens."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Build, verify or inspect a bundle as a command line says.

    Returns the exit status: 0; 1 for an error; 130 for Ctrl-C and 143 for SIGTERM; 141 if the reader of the words has
    gone. A wrong command line raises SystemExit with status 2.
    """
    try:
        if (stranger := _stranger()) is not None:
            print(f"error: {stranger} hides our package 'runtime': rename it, or work elsewhere", file=sys.stderr)
            return 1
        from export.commands import run  # in here: Ctrl-C finds the guard in place even while this is imported

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("interrupted: nothing was left half-built", file=sys.stderr)
        return 130


def _stranger() -> str | None:
    """What Python would import as `runtime` in place of ours, which lies beside this package; None if nothing.

    `python -m` looks into the working folder first, and finds a file runtime.py there.
    """
    from importlib.util import find_spec
    from pathlib import Path

    ours = Path(__file__).resolve().parent.parent / "runtime" / "__init__.py"
    found = find_spec("runtime")
    if found is None or (found.origin is not None and Path(found.origin).resolve() == ours):
        return None
    return found.origin or next(iter(found.submodule_search_locations or []), "something")


if __name__ == "__main__":
    sys.exit(main())
