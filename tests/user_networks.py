"""Networks as a user writes them, and one of them trained on scikit-learn's digits."""

from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self, channels: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.linear = nn.Linear(16 * channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images).flatten(1))


def small(channels: int = 32) -> nn.Module:
    return Small(channels)


def student(num_classes: int) -> nn.Module:
    return Small(4, num_classes)


@cache
def _weights() -> dict[str, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images[::3] * 15, dtype=torch.float32)[:, None] / 127.5 - 1
    labels = torch.tensor(found.target[::3])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small()
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
    return network.state_dict()


def trained() -> nn.Module:
    """Return a network that is right on almost all digits, for images normalised to [-1, 1]."""
    network = Small()
    network.load_state_dict(_weights())
    return network


def checkpoint(folder: Path) -> Path:
    path = folder / "small.pth.tar"
    torch.save({"state_dict": trained().state_dict()}, path)
    return path
