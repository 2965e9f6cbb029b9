"""The five networks of the zoo, and narrower ones beside them, as torch modules.

All take ``image[batch, 1, 28, 28]`` with values in [0, 1] and give ``logits[batch, 10]``. Every network is an
``nn.Sequential`` of named stages made of the block types of this file and of plain torch layers, so that ``export.py``
can walk it and name each ONNX node and weight after the module that owns it.

Source:
    LeNet-300-100 and LeNet-5: LeCun et al., "Gradient-based learning applied to document recognition", 1998, the
    latter in the layout of Caffe's MNIST example. ResNet-20: He et al., "Deep residual learning", 2016, section 4.2,
    with projection shortcuts. VGG: Simonyan and Zisserman, 2015. MobileNet: Sandler et al., "MobileNetV2", 2018.
"""

# mypy: disable-error-code="import-not-found,misc"
# torch lives in the training environment only, so its classes are Any to the type checker.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

CLASSES = 10


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and an optional activation.

    Attributes:
        conv: The convolution, ``weight[outputs, inputs / groups, kernel, kernel]``.
        bn: The batch normalisation over the outputs.
        act: ``nn.ReLU``, ``nn.ReLU6`` or ``nn.Identity``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        """Makes the layers; the padding keeps the size at stride 1."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``act(bn(conv(x)))``."""
        return self.act(self.bn(self.conv(x)))


class Residual(nn.Module):
    """The basic block of ResNet: ``relu(b(a(x)) + shortcut(x))``.

    The shortcut is the identity where the shape stays, and a 1x1 convolution with batch normalisation where it changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Makes the layers; ``stride`` is that of the first convolution and of the shortcut."""
        super().__init__()
        self.a = ConvNorm(inputs, outputs, 3, stride)
        self.b = ConvNorm(outputs, outputs, 3, act=nn.Identity)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride, act=nn.Identity)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        return self.act(self.b(self.a(x)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """The block of MobileNetV2: expand 1x1, depthwise 3x3, project 1x1; added to ``x`` where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Makes the layers; the depthwise convolution has ``inputs * expansion`` channels."""
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden, 1, act=nn.ReLU6)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6)
        self.project = ConvNorm(hidden, outputs, 1, act=nn.Identity)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


def lenet_300_100() -> nn.Sequential:
    """784-300-100-10 with ReLU: 266,610 parameters."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, CLASSES),
        )
    )


def lenet5() -> nn.Sequential:
    """Caffe's LeNet: two 5x5 convolutions (20, 50) without padding, each max-pooled, then 500 hidden units."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, CLASSES),
        )
    )


def resnet20(width: float = 1.0) -> nn.Sequential:
    """Three stages of three basic blocks, 16, 32 and 64 channels times ``width``, at 28x28, 14x14 and 7x7."""
    inputs, *_ = widths = [round(width * channels) for channels in (16, 32, 64)]
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNorm(1, inputs, 3))
    for stage, outputs in enumerate(widths, start=1):
        for block in range(1, 4):
            stride = 2 if stage > 1 and block == 1 else 1
            stages[f"stage{stage}_block{block}"] = Residual(inputs, outputs, stride)
            inputs = outputs
    stages["pool"] = nn.AdaptiveAvgPool2d(1)
    stages["flatten"] = nn.Flatten()
    stages["fc"] = nn.Linear(inputs, CLASSES)
    return nn.Sequential(stages)


def vgg_small() -> nn.Sequential:
    """Eight 3x3 convolutions (32, 32, 64, 64, 128 x 4), max-pooled 28 -> 14 -> 7 -> 3, then a dense layer."""
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 1
    for stage, widths in enumerate(((32, 32), (64, 64), (128, 128, 128, 128)), start=1):
        for layer, outputs in enumerate(widths, start=1):
            stages[f"stage{stage}_conv{layer}"] = ConvNorm(inputs, outputs, 3)
            inputs = outputs
        stages[f"stage{stage}_pool"] = nn.MaxPool2d(2)
    stages["flatten"] = nn.Flatten()
    stages["fc1"] = nn.Linear(inputs * 3 * 3, 128)
    stages["relu"] = nn.ReLU()
    stages["fc2"] = nn.Linear(128, CLASSES)
    return nn.Sequential(stages)


def mobilenet_small() -> nn.Sequential:
    """A stem at 14x14 and eight inverted residuals (16, 24, 24, 32, 32, 48, 48, 64), expansion 4, down to 4x4."""
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNorm(1, 16, 3, stride=2, act=nn.ReLU6))
    inputs = 16
    plan = ((16, 1), (24, 1), (24, 1), (32, 2), (32, 1), (48, 1), (48, 1), (64, 2))
    for index, (outputs, stride) in enumerate(plan, start=1):
        stages[f"block{index}"] = InvertedResidual(inputs, outputs, stride, expansion=4)
        inputs = outputs
    stages["head"] = ConvNorm(inputs, 192, 1, act=nn.ReLU6)
    stages["pool"] = nn.AdaptiveAvgPool2d(1)
    stages["flatten"] = nn.Flatten()
    stages["fc"] = nn.Linear(192, CLASSES)
    return nn.Sequential(stages)


BUILDERS: dict[str, Callable[[], nn.Sequential]] = {
    "lenet-300-100": lenet_300_100,
    "lenet5": lenet5,
    "resnet20": resnet20,
    "resnet20-0.75": partial(resnet20, 0.75),
    "resnet20-0.5": partial(resnet20, 0.5),
    "vgg-small": vgg_small,
    "mobilenet-small": mobilenet_small,
}
