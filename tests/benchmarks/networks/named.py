"""Every network that is trained, by name: those of peers, and those that are trained here on MNIST."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import peers, trained
from .peers import PEERS
from .sample import Sample
from .training import MNIST


def samples(only: str, seeds: Sequence[int], note: Callable[[str], None]) -> Iterator[Sample]:
    """Networks whose name contains `only`; `note` is told of those that cannot be had."""
    for name, build in builders(seeds, note).items():
        if only.lower() in name.lower():
            yield build()


def builders(seeds: Sequence[int], note: Callable[[str], None]) -> dict[str, Callable[[], Sample]]:
    """What makes each network, by name; `note` is told of those that cannot be had."""
    peers_there, images_there = (PEERS / "load.py").exists(), MNIST.is_dir()
    if not peers_there:
        note(f"No networks of peers in {PEERS} (LIPGUARD_PEERS): left out.")
    if not images_there:
        note(f"No MNIST in {MNIST} (LIPGUARD_MNIST): networks that are trained on it are left out.")
    return (peers.builders(seeds) if peers_there else {}) | (trained.builders() if images_there else {})
