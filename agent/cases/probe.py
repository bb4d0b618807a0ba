"""Decoding what nobody vouches for yet, in a process of its own: a decoder that dies or hangs costs one file.

JPEG 2000 and the like are decoded by native code, and one such decoder was seen to spin for half a minute on a damaged
stream; inside the daemon the same file would stop it again after every restart.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from agent.cases import boxes, masks
from agent.cases.images import Unreadable, pixels_of, read_image
from agent.errors import HomeostatError

CPU_SECONDS = 20  # for one file; the largest that are taken need about two
READY = "ready\n"
INCOMPLETE = 70  # exit code: the fault is ours
MEMORY = 4 * 2**30  # bytes of address space; numpy and the decoders take half a gigabyte of it


class Probe:
    """Looks at files, `slices` of each. Starts its process at the first one; a context manager."""

    def __init__(self, slices: int = 1) -> None:
        self.slices = slices
        self._process: subprocess.Popen[str] | None = None

    def look(self, path: Path, kind: str) -> tuple[str, str]:
        """(why it can't be read in one sentence, or "" where the file is an image; depth and kind of its pixels).

        Raises HomeostatError where it is not the file that is at fault, but this installation.
        """
        return self._ask(self.slices, str(path), kind)

    def look_at_truth(self, truth: Path, kind: str, image: Path, image_kind: str, classes: Sequence[str]) -> str:
        """Why a file is no "mask", or no "boxes", of this image with these classes, in one sentence; "" where it is.

        Raises HomeostatError as `look` does.
        """
        return self._ask(self.slices, str(truth), kind, str(image), image_kind, list(classes))[0]

    def _ask(self, *request: int | str | list[str]) -> tuple[str, str]:
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        if answer := process.stdout.readline():
            reason, said = json.loads(answer)
            return str(reason), str(said)
        self.close()
        if process.returncode == INCOMPLETE:
            raise HomeostatError("a library that reads images is missing or broken: 'homeostat doctor' says which")
        if process.returncode == -signal.SIGPROF:
            return f"the file could not be decoded within {CPU_SECONDS} seconds of computing", ""
        return "the file made its decoder fail", ""

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agent.cases.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders complain there, in words that may be the patient's
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != READY:
            self.close()
            raise HomeostatError(
                "the process that decodes images does not start: 'homeostat doctor' says what is missing"
            )
        return self._process


def main() -> None:
    """Answers one line per line, until the other side closes or dies. The kernel ends it where a file asks too much."""
    print(READY, end="", flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the patient's image
    for line in sys.stdin:
        slices, path, kind, *image = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            reason, said = "", _truth(Path(path), kind, slices, *image) if image else _image(Path(path), kind, slices)
        except Unreadable as error:
            reason, said = str(error), ""
        except ImportError:
            sys.exit(INCOMPLETE)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([reason, said]), flush=True)


def _image(path: Path, kind: str, slices: int) -> str:
    read_image(path, kind, slices)
    return pixels_of(path, kind)


def _truth(path: Path, kind: str, slices: int, image: str, image_kind: str, classes: list[str]) -> str:
    shape = read_image(Path(image), image_kind, slices).shape
    _BESIDE[kind](path, Path(image), slices, shape, classes)
    return ""


_BESIDE: dict[str, Callable[[Path, Path, int, Sequence[int], Sequence[str]], None]] = {
    "mask": lambda path, image, slices, shape, classes: masks.against(
        masks.read_beside(path, image, slices), shape, classes
    ),
    "boxes": lambda path, image, slices, shape, classes: boxes.against(boxes.read_boxes(path), shape, classes),
}


if __name__ == "__main__":
    main()
