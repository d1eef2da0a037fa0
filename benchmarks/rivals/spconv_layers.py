"""spconv's CPU build on submanifold layers: run by sparse_conv.py in the rivals' environment, a layer for each line it is sent.

Argument: an .npz with `coords_L` (V, 3) of each level. A line is JSON: level, inputs, outputs, repeats; or level, `check`, an
.npz with `x` and `weight` (27, inputs, outputs; x fastest), `threads`, and `out`, where to write what comes out. Each answer
is a line of JSON: median milliseconds with the map cached, and milliseconds of the first call, which makes the map.
"""

import json
import statistics
import sys
import time

import numpy as np
import spconv
import spconv.pytorch as sparse
import torch

THREADS = 2


def tensor_of(coords, x):
    indices = torch.from_numpy(np.concatenate([np.zeros((len(coords), 1), np.int32), coords.astype(np.int32)], axis=1))
    return sparse.SparseConvTensor(x, indices, [int(size) for size in coords.max(axis=0) + 2], 1)


def layer_of(weight):
    _, inputs, outputs = weight.shape
    layer = sparse.SubMConv3d(inputs, outputs, 3, bias=False, indice_key="map")
    # (27, inputs, outputs), x fastest -> (outputs, x, y, z, inputs)
    layer.weight = torch.nn.Parameter(weight.view(3, 3, 3, inputs, outputs).permute(4, 2, 1, 0, 3).contiguous())
    return layer


def measure(coords, inputs, outputs, repeats):
    generator = torch.Generator().manual_seed(0)
    given = tensor_of(coords, torch.randn(len(coords), inputs, generator=generator))
    layer = layer_of(torch.randn(27, inputs, outputs, generator=generator))
    started = time.perf_counter()
    layer(given)  # the map stays in the tensor under the layer's key
    first, times = time.perf_counter() - started, []
    for _ in range(repeats):
        started = time.perf_counter()
        layer(given)
        times.append(time.perf_counter() - started)
    return {"cached_ms": 1e3 * statistics.median(times), "first_ms": 1e3 * first}


def main():
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    with np.load(sys.argv[1]) as file:
        levels = {name: file[name] for name in file.files}
    version = getattr(spconv, "__version__", "?")
    print(json.dumps({"ready": len(levels), "spconv": version}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        coords = levels[f"coords_{asked['level']}"]
        if "check" in asked:
            with np.load(asked["check"]) as file:
                x, weight = torch.from_numpy(file["x"]), torch.from_numpy(file["weight"])
            torch.set_num_threads(asked["threads"])
            np.save(asked["out"], layer_of(weight)(tensor_of(coords, x)).features.numpy())
            torch.set_num_threads(THREADS)
            print(json.dumps({"written": asked["out"]}), flush=True)
        else:
            print(json.dumps(measure(coords, asked["inputs"], asked["outputs"], asked["repeats"])), flush=True)


if __name__ == "__main__":
    main()
