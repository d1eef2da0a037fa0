"""How well a generator of scenes draws: PSNR and SSIM against the rendered pictures of held-out scenes, and a contact sheet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effvision._optional import import_cv2
from effvision.errors import InputError
from effvision.models.sige.scenes import coloured, network_input, scene

__all__ = ["Scores", "contact_sheet", "draw", "measure", "psnr", "ssim"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Scores:
    """Means over scenes.

    Attributes:
        scenes: How many.
        psnr_db: Peak signal-to-noise ratio, mean over pictures.
        ssim: Structural similarity of the brightness, mean over pictures.
        chance_psnr_db: PSNR of filling every class with its mean colour in the same scenes, which knows no texture.
        chance_ssim: The same for SSIM.
    """

    scenes: int
    psnr_db: float
    ssim: float
    chance_psnr_db: float
    chance_ssim: float

    def to_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)


def psnr(first: Bytes, second: Bytes) -> float:
    """Peak signal-to-noise ratio in dB of pictures (H, W, 3) uint8; 100 if they are equal."""
    error = float(np.square(first.astype(np.float64) - second).mean())
    return 100.0 if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(first: Bytes, second: Bytes) -> float:
    """Structural similarity of the brightness of pictures (H, W, 3) uint8.

    Wang et al., IEEE Trans. Image Processing 13(4), 2004. The window is a Gaussian of 11x11 and
    deviation 1.5; only windows that lie inside count.
    """
    cv2: Any = import_cv2()
    weights = np.array([0.299, 0.587, 0.114])
    a, b = (picture.astype(np.float64) @ weights for picture in (first, second))

    def mean(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(plane, (11, 11), 1.5)[5:-5, 5:-5], dtype=np.float64)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top, bottom = (2 * mean_a * mean_b + c1) * (2 * both + c2), (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float((top / bottom).mean())


@torch.no_grad()
def draw(network: nn.Module, labels: Bytes, seed: int = 0) -> Bytes:
    """The network's picture (H, W, 3) uint8 of a label map (H, W) uint8 with the guide of a seed."""
    device = next(network.parameters()).device
    made = network(torch.from_numpy(network_input(labels, seed))[None].to(device))[0]
    picture = ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy())


def measure(network: nn.Module, *, split: str, scenes: int, painted: float) -> Scores:
    """Score a network in eval mode on the first scenes of a split.

    Args:
        network: Takes (N, C, H, W), gives (N, 3, H, W) in -1..1.
        split: One of `scenes.SPLITS`.
        scenes: How many.
        painted: Share of them that have been painted on.

    Raises:
        InputError: no scenes, or no such split.
    """
    if scenes < 1:
        raise InputError(f"`scenes` must be at least 1; got {scenes}\nhint: 64")
    rows = []
    for seed in range(scenes):
        one = scene(seed, split=split, painted=painted)
        made, flat = draw(network, one.labels, one.guide_seed), _mean_colours(one.labels, one.picture)
        rows.append([score(picture, one.picture) for picture in (made, flat) for score in (psnr, ssim)])
    means = np.mean(rows, axis=0)
    return Scores(scenes, *(round(float(value), 4) for value in means))


def _mean_colours(labels: Bytes, picture: Bytes) -> Bytes:
    """Every class filled with the mean of its pixels in this very picture."""
    counts = np.maximum(np.bincount(labels.ravel(), minlength=256), 1)
    sums = [np.bincount(labels.ravel(), picture[:, :, k].ravel(), minlength=256) for k in range(3)]
    return np.asarray(np.rint(np.stack(sums, 1) / counts[:, None]).astype(np.uint8)[labels])


def contact_sheet(network: nn.Module, path: Path, *, split: str, scenes: int = 8, painted: float = 0.5) -> Path:
    """Write a PNG or JPEG: in each row twice the labels, the network's picture and the rendered one.

    Raises:
        InputError: no even number of scenes, no such split, or another kind of file.
    """
    if scenes < 2 or scenes % 2 or path.suffix.lower() not in (".png", ".jpg"):
        raise InputError(
            f"a contact sheet is a .png or .jpg of an even number of scenes; got {scenes}, {path}\nhint: --scenes 8"
        )
    cv2: Any = import_cv2()
    strips = []
    for seed in range(scenes):
        one = scene(seed, split=split, painted=painted)
        strips.append(np.hstack([coloured(one.labels), draw(network, one.labels, one.guide_seed), one.picture]))
    sheet = np.vstack([np.hstack(strips[at : at + 2]) for at in range(0, scenes, 2)])
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix.lower(), sheet[:, :, ::-1])
    if not done:
        raise InputError(f"cannot encode the contact sheet {path}\nhint: give fewer scenes")
    from effvision._files import write_bytes

    return write_bytes(path, data.tobytes())
