"""The PyTorch baseline. Requires only torch and torchvision, of any version, and timm for --timm.

    PYTHON pytorch_baseline.py step NETWORK [--batch N] [--precision fp32|bf16|…] [--device cuda] [--compile] [--timm]
    PYTHON pytorch_baseline.py input FOLDER [--batch N]

Prints one JSON object to standard output.
"""

import argparse
import contextlib
import json
import os
import sys
import time

import numpy as np
import torch
import torchvision

BLOCKS = {"resnext17-8x4d": None, "resnext50-32x4d": [3, 4, 6, 3], "resnext101-32x4d": [3, 4, 23, 3]}
MEAN, DEVIATION = (123.68, 116.28, 103.53), (58.395, 57.12, 57.385)


def network(options):
    if options.timm:
        import timm

        return timm.create_model(options.network.replace("-", "_"), num_classes=1000)
    from torchvision.models.resnet import Bottleneck, ResNet

    # torchvision has no model as small as resnext17-8x4d; a similar size suffices for a dry run.
    blocks = BLOCKS[options.network] or [1, 1, 1, 1]
    return ResNet(Bottleneck, blocks, groups=32, width_per_group=4)


def autocast(options):
    """Automatic mixed precision for fp16 and bf16."""
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(options.precision)
    return torch.autocast(options.device, dtype=kind) if kind else contextlib.nullcontext()


def step(options):
    """Forward, backward and SGD with the recipe's settings, on one batch of normalized noise."""
    cuda = options.device == "cuda"
    torch.backends.cudnn.benchmark = True
    for part in (torch.backends.cudnn, torch.backends.cuda.matmul):
        part.allow_tf32 = options.precision == "tf32"
    net = network(options).to(options.device, memory_format=torch.channels_last)
    forward = torch.compile(net) if options.compile else net
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.875, weight_decay=1 / 16384)
    scaler = torch.cuda.amp.GradScaler(enabled=cuda and options.precision == "fp16")
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randn(shape).to(options.device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(options.batch, dtype=torch.long, device=options.device)

    def one():
        optimizer.zero_grad(set_to_none=True)
        with autocast(options):
            loss = torch.nn.functional.cross_entropy(forward(images), labels, label_smoothing=0.1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    seconds = timed(one, options)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return seconds, {"compiled": options.compile, "timm": options.timm, "peakMemoryGiB": peak}


class Pictures(torch.utils.data.Dataset):
    """The JPEGs of a directory, repeated into a long epoch, so that its end does not affect the result."""

    def __init__(self, folder, count):
        from torchvision import transforms

        self.files = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]  # noqa: PTH118, PTH208
        self.count = count
        self.cut = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()])

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        from PIL import Image

        with Image.open(self.files[number % len(self.files)]) as picture:
            cut = self.cut(picture.convert("RGB"))
        # uint8 like the trainer's pipelines; the conversion to floats is left to the device.
        return torch.from_numpy(np.array(cut)), number % 1000


def pictures(options):
    """torchvision's transforms and a DataLoader with one process per core."""
    cores = len(os.sched_getaffinity(0))
    count = options.batch * (options.warm_up + options.steps + 4 * cores)
    loader = torch.utils.data.DataLoader(
        Pictures(options.network, count), options.batch, shuffle=True, num_workers=cores, drop_last=True
    )
    batches = iter(loader)
    return timed(lambda: next(batches), options), {"workers": cores}


def timed(act, options):
    for _ in range(options.warm_up):
        act()
    marks = [time.perf_counter()]
    for _ in range(options.steps):
        act()
        marks.append(time.perf_counter())
    return np.diff(marks)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["step", "input"])
    parser.add_argument("network", help="model, or directory of JPEGs for input")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--timm", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2)
    options = parser.parse_args()
    seconds, more = (step if options.what == "step" else pictures)(options)
    total = float(seconds.sum())
    facts = {
        # From the total time, as in the trainer's benchmark, so that slow steps count.
        "imagesPerSecond": options.batch * len(seconds) / total,
        "medianStepSeconds": float(np.median(seconds)),
        "steps": len(seconds),
        "batchSize": options.batch,
        "precision": options.precision,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        **more,
    }
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
