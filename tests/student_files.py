"""A file of networks as users write them, for students."""

NETS = """
import random
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, classes, channels=1, width=4, dropout=0.0, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def features(self, images):
        return F.relu(self.norm(self.conv(images))).mean((2, 3))

    def forward(self, images):
        return self.head(self.drop(self.features(images)))


def net(num_classes, in_channels, width=4, dropout=0.0, norm=True):
    return Net(num_classes, in_channels, width, dropout, norm)


def colour(num_classes):
    return Net(num_classes, 3)


def fixed():
    return Net(10)


def told(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size ** 2, num_classes))


def seven(**unused):
    return Net(7)


def fails(num_classes):
    raise RuntimeError("no network today")


def a_dict(num_classes):
    return {}


def large(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 9), nn.Flatten(), nn.Linear(4, num_classes))


class Changed(Net):
    def forward(self, images):
        return self.change(super().forward(images))


def changed(how):
    class Other(Changed):
        def change(self, logits):
            return how(self, logits)

    return lambda: Other(10)


auxiliary = changed(lambda net, logits: (logits, logits) if net.training else logits)
wrapped = changed(lambda net, logits: {"logits": logits})
maps = changed(lambda net, logits: logits[:, :, None])
squeezed = changed(lambda net, logits: logits.squeeze())
whole = changed(lambda net, logits: logits.argmax(1, keepdim=True).expand(-1, 10))
nan = changed(lambda net, logits: logits / 0)
nan_training = changed(lambda net, logits: logits / 0 if net.training else logits)
nan_gradient = changed(lambda net, logits: logits + (0 * logits).sqrt())
noisy = changed(lambda net, logits: F.dropout(logits, 0.5))
cut = changed(lambda net, logits: logits.detach())
softmax = changed(lambda net, logits: logits.softmax(1))
own_random = changed(lambda net, logits: logits * (1 + random.random() * net.training))
breaks = changed(lambda net, logits: {}["broken"] if net.training and len(logits) > 2 else logits)
looks = changed(lambda net, logits: logits * 2 if float(logits.detach().sum()) > 0 else logits)


def frozen():
    return Net(10).requires_grad_(False)


class InPlace(Net):
    def forward(self, images):
        return super().forward(images.mul_(2))


def in_place():
    return InPlace(10)


def scripted():
    return torch.jit.trace(Net(10).eval(), torch.zeros(2, 1, 8, 8))


def half():
    return Net(10).half()


class Broken(Net):
    def forward(self, images):
        raise ValueError("not today")


def broken():
    return Broken(10)


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def uncopied():
    net = Net(10)
    net.head = torch.nn.Linear(4, 10)
    net.kept = net.head.weight * 2
    return net


class Extra(Net):
    def get_extra_state(self):
        return {"a": 1}


def extra():
    return Extra(10)
"""
