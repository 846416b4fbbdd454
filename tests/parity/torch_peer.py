"""Computes reference results with PyTorch and torchvision for the same inputs.

Run by Debian's Python: COMMAND IN.npz OUT.npz.

Both files hold arrays by name; the weights have the names of torchvision's ResNet, which timm uses as well.
"""

import sys

import numpy as np
import torch
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.transforms import CenterCrop, RandomResizedCrop, Resize


def network(given):
    """The timm model with this name, or a torchvision ResNet with these blocks, groups and width."""
    if "timm" in given:
        import timm

        net = timm.create_model(str(given.pop("timm")))
    else:
        blocks, (groups, width) = given.pop("blocks").tolist(), given.pop("groups").tolist()
        net = ResNet(Bottleneck, blocks, groups=groups, width_per_group=width)
    state = {name: torch.from_numpy(value) for name, value in given.items()}
    counters = {name for name in net.state_dict() if name.endswith("num_batches_tracked")}
    missing, unexpected = net.load_state_dict(state, strict=False)
    if set(missing) - counters or unexpected:
        raise ValueError(f"missing {set(missing) - counters}, unexpected {unexpected}")
    return net


def logits(given):
    images = torch.from_numpy(given.pop("images"))
    with torch.no_grad():
        return {"logits": network(given).eval()(images).numpy()}


def step(given):
    """One training step's gradients, and the statistics after it."""
    images, targets = (torch.from_numpy(given.pop(name)) for name in ("images", "targets"))
    net = network(given).train()
    loss = torch.nn.functional.cross_entropy(net(images), targets)
    loss.backward()
    gradients = {f"gradient {name}": value.grad.numpy() for name, value in net.named_parameters()}
    return {
        **gradients,
        **{name: value.detach().numpy() for name, value in net.named_buffers()},
        "loss": loss.detach().numpy(),
    }


def sgd(given):
    """Momentum SGD over given gradients, with a rate for each step."""
    momentum, decay = given["settings"].tolist()
    weight = torch.nn.Parameter(torch.from_numpy(given["weight"]))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum, weight_decay=decay)
    for gradient, rate in zip(given["gradients"], given["rates"]):  # noqa: B905 - Debian's Python is not ours
        optimizer.param_groups[0]["lr"] = float(rate)
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    return {"weight": weight.detach().numpy()}


def crops(given):
    """Windows (top, left, height, width) of a random resized crop."""
    torch.manual_seed(0)
    image = torch.zeros(3, *given["size"].tolist())
    scale, ratio = given["scale"].tolist(), given["ratio"].tolist()
    return {"cuts": np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(int(given["draws"]))])}


def center(given):
    """Coordinates, in the original image, of the corners of the 224-pixel center crop after a resize to 256."""
    found = []
    for height, width in given["sizes"].tolist():
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        window = CenterCrop(224)(Resize(256, antialias=False)(torch.stack([rows, columns])))
        found.append([window[0, 0, 0], window[1, 0, 0], window[0, -1, -1], window[1, -1, -1]])
    return {"corners": np.array(found)}


def resized(given):
    """A window resized to 224x224, and the center 224 of the picture resized to 256."""
    picture = torch.from_numpy(given["picture"]).permute(2, 0, 1).float()
    antialias, (top, left, height, width) = bool(given["antialias"]), given["window"].tolist()
    window = picture[:, top : top + height, left : left + width]
    images = {
        "crop": Resize([224, 224], antialias=antialias)(window),
        "center": CenterCrop(224)(Resize(256, antialias=antialias)(picture)),
    }
    return {name: image.permute(1, 2, 0).numpy() for name, image in images.items()}


if __name__ == "__main__":
    command, source, target = sys.argv[1:]
    with np.load(source) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(target, **globals()[command](arrays))
