"""Both forms of a graph in ONNX Runtime against the network in PyTorch, at sizes that were not there when it was traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from effvision.errors import InputError
from effvision.export.device_check import check_device
from effvision.export.device_report import SILENT, UNSUPPORTED
from effvision.host.voxels import graph_arrays
from effvision.models.pvcnn.frustum import FrustumBoxes, FrustumSegmentation
from effvision.models.pvcnn.graphs import PlacedScatterGraph, TableGraph, resolutions
from effvision.models.pvcnn.network import PVCNN, PVCNN2, s3dis
from effvision.models.pvcnn.stages import Stage

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

STAGES = [Stage(8, 1, 12), Stage(8, 1, 6), Stage(16, 1, None)]
NETWORKS: dict[str, Any] = {
    "plain": lambda: PVCNN(5, channels=6, stages=STAGES, cloud=(8,), head=(8, 0.3)),
    "with squeeze and categories": lambda: PVCNN(
        5, channels=4, categories=2, stages=STAGES, cloud=(), head=(8,), excite=True, unit_ball=False
    ),
    "frustum": lambda: FrustumSegmentation(width=0.125, channels=4),
}
FORMS = [PlacedScatterGraph, TableGraph]
# clouds, points, points of them in one place, how far the cloud reaches
SIZES = [(1, 1, 0, 1.0), (1, 700, 0, 1.0), (3, 257, 200, 0.6), (2, 64, 64, 1.0), (1, 1500, 900, 0.05)]


def cloud(clouds: int, channels: int, number: int, crowd: int, reach: float, seed: int = 0) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).uniform(-1, 1, (clouds, channels, number)).astype(np.float32)
    made[:, :3] *= reach
    made[:, :3, number - crowd :] = made[:, :3, number - crowd : number - crowd + 1]
    return made


def given(graph: Any, points: NDArray[np.float32], margin: int | None) -> dict[str, NDArray[Any]]:
    arrays = graph_arrays(points, graph.inputs, unit_ball=graph.unit_ball, margin=margin)
    if graph.given:
        arrays["one_hot"] = np.eye(3, dtype=np.float32)[np.arange(len(points)) % 3]
    return {name: arrays[name] for name in graph.inputs}


def channels(network: Any) -> int:
    return int(network.channels + getattr(network, "categories", 0))


def export(graph: Any, network: Any, opset: int) -> Any:
    from effvision.export._quiet import quiet
    from effvision.export.opset import to_opset

    example = given(graph, cloud(2, channels(network), 40, 12, 1.0), None if excites(network) else 1)
    with quiet("torch.onnx", "torch.export", "onnxscript", "onnx_ir"):
        program = torch.onnx.export(
            graph.eval(),
            tuple(torch.from_numpy(array) for array in example.values()),
            dynamo=True,
            opset_version=18,
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes=graph.dynamic_shapes(),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    to_opset(model, opset)
    onnx.checker.check_model(model, full_check=True)
    return model


def excites(network: nn.Module) -> bool:
    return any(getattr(module, "excite", False) for module in network.modules())


EXPORTED = [
    ("plain", PlacedScatterGraph),
    ("plain", TableGraph),
    ("with squeeze and categories", TableGraph),
    ("frustum", PlacedScatterGraph),
    ("frustum", TableGraph),
]


@pytest.fixture(scope="module", params=EXPORTED, ids=lambda pair: f"{pair[0]}, {pair[1].__name__}")
def exported(request: pytest.FixtureRequest, golden: Any) -> tuple[Any, Any, Any]:
    """A network, its graph, and the graph at opset 17."""
    name, form = request.param
    network = golden.randomise(NETWORKS[name]())
    graph = form(network)
    return network, graph, export(graph, network, 17)


@pytest.mark.slow
def test_a_graph_equals_the_network_with_crowds_empty_voxels_and_unseen_sizes(exported: Any) -> None:
    network, graph, model = exported
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {entry.name for entry in session.get_inputs()} == set(graph.inputs)
    for clouds, number, crowd, reach in SIZES:
        points = cloud(clouds, channels(network), number, crowd, reach, seed=number)
        for margin in (None, 1, 3) if isinstance(graph, TableGraph) and not excites(network) else (None,):
            arrays = given(graph, points, margin)
            (got,) = session.run(None, arrays)
            more = [torch.from_numpy(arrays[name]) for name in graph.given]
            with torch.inference_mode():
                wanted = network(torch.from_numpy(points), *more).numpy()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))


@pytest.mark.slow
def test_only_the_scatter_form_scatters_and_it_always_adds(exported: Any) -> None:
    _, graph, model = exported
    used = {node.op_type for node in model.graph.node}
    if isinstance(graph, TableGraph):
        wanted = {"Gather", "ReduceSum", "Concat"}
        unwanted = ("Scatter", "CumSum", "GridSample", "NonZero", "Unique", "Loop")
        assert wanted <= used and not [op for op in used if any(word in op for word in unwanted)]
        return
    scatters = [node for node in model.graph.node if "Scatter" in node.op_type]
    assert scatters and all(node.op_type == "ScatterElements" for node in scatters)
    assert all({item.name: item.s for item in node.attribute}["reduction"] == b"add" for node in scatters)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["jp51", "jp60"])  # TensorRT 8.5 and 8.6
def test_old_tensorrt_is_predicted_to_take_the_table_form_and_not_the_scatter_form(target: str, exported: Any) -> None:
    _, graph, model = exported
    wrong = [finding for finding in check_device(model, target).findings if finding.verdict in (UNSUPPORTED, SILENT)]
    if isinstance(graph, TableGraph):
        assert wrong == []
    else:
        assert {finding.op for finding in wrong if finding.verdict == SILENT} == {"ScatterElements"}


def test_a_network_whose_sampling_takes_a_step_per_point_has_no_graph() -> None:
    for network in (PVCNN2(3, width=0.25), FrustumBoxes(width=0.125)):
        with pytest.raises(InputError, match=f"{type(network).__name__} has no form as a graph"):
            PlacedScatterGraph(network.eval())  # type: ignore[arg-type]


def test_a_graph_leaves_the_network_as_it_was() -> None:
    network = s3dis(width=0.125).eval()
    kinds = [type(module) for module in network.modules()]
    TableGraph(network)
    assert [type(module) for module in network.modules()] == kinds
    assert resolutions(network) == (32, 16)


@torch.inference_mode()
def test_the_forms_agree_with_the_network_before_they_are_exported(golden: Any) -> None:
    for build in NETWORKS.values():
        network = golden.randomise(build())
        points = cloud(2, channels(network), 300, 150, 1.0)
        for form in FORMS:
            graph = form(network)
            arrays = [torch.from_numpy(array) for array in given(graph, points, None).values()]
            got = graph.eval()(*arrays)
            wanted = network(
                torch.from_numpy(points), *[torch.from_numpy(given(graph, points, None)[n]) for n in graph.given]
            )
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))
