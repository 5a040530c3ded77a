"""Deleting images while an orchestrator and supervisors do not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from .directory import Identity, Image, ImageDirectory


class Observer(Protocol):
    """Is told what happens to the images of a directory."""

    def begin(self, name: str) -> None:
        """The files of an image are being removed."""

    def removed(self) -> None:
        """One of them has been."""

    def end(self, name: str, error: OSError | None) -> None:
        """An image is gone, or cannot be removed."""


def delete(
    images: ImageDirectory, unused: Iterable[Image], look_again: Callable[[], frozenset[Identity]], observer: Observer
) -> None:
    """Delete images of a directory that were found unused, and what an interrupted deletion has left there.

    First they lose their names, so that nobody can begin to use them and none is ever seen with half of its files.
    Then `look_again` says on which directories something runs by now, and raises when the configuration is another:
    what is used, and after an exception all, gets its name back. The files go last. Raises Busy, OSError and what
    `look_again` raises.
    """
    images.lock()
    aside: dict[str, Image] = {}
    try:
        for image in unused:
            try:
                if hidden := images.set_aside(image):
                    aside[hidden] = image
            except OSError as error:
                observer.end(image.name, error)
        running = look_again()
        for hidden in [hidden for hidden, image in aside.items() if image.identity in running]:
            images.put_back(hidden, aside.pop(hidden).name)
        for hidden in dict.fromkeys((*aside, *images.left_aside())):
            # One that could not be put back, as its name has a new owner, may still have users.
            if images.identity(hidden) not in running:
                known = aside.pop(hidden, None)
                _remove(images, hidden, known.name if known else hidden, observer)
    finally:
        for hidden, image in aside.items():
            images.put_back(hidden, image.name)


def _remove(images: ImageDirectory, hidden: str, name: str, observer: Observer) -> None:
    observer.begin(name)
    try:
        images.remove(hidden, observer.removed)
    except OSError as error:
        observer.end(name, error)
    else:
        observer.end(name, None)
