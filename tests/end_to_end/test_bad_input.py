"""Whatever is wrong with what the user gives: one sentence, the right exit code, no file, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from lissom.cli import main
from lissom_runtime.session import open_session

pytestmark = pytest.mark.ort

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] image) => (float[N, 10] logits) {
    t = Conv <pads = [1, 1, 1, 1]> (image, w)
    r = Relu(t)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    logits = Gemm <transB = 1> (f, v, b)
}"""


def network(w: np.ndarray | None = None, opset: int = 17) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    proto.opset_import[0].version = opset
    constants = {
        "w": rng.standard_normal((64, 3, 3, 3)) if w is None else w,
        "v": rng.standard_normal((10, 64)),
        "b": rng.standard_normal(10),
    }
    for name, values in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return proto


def images(count: int, *shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, *(shape or (3, 8, 8)))).astype(dtype)


def with_one(value: float) -> np.ndarray:
    """Four images with one odd pixel."""
    made = images(4)
    made[2, 1, 0, 3] = value
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.onnx").write_bytes(network().SerializeToString())
    np.savez(tmp_path / "data.npz", image=images(4), labels=np.zeros(4, np.int64))
    return tmp_path


def compress(folder: Path, *words: str, source: str = "in.onnx", output: str = "out.onnx") -> int:
    base = ["compress", str(folder / source), "-o", str(folder / output)]
    return main([*base, *words])


def expect(folder: Path, capsys: pytest.CaptureFixture[str], code: int, wanted: int, *sentences: str) -> None:
    captured = capsys.readouterr()
    assert code == wanted, captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, "one sentence on one line"
    assert "Traceback" not in captured.err
    for sentence in sentences:
        assert sentence in captured.err
    assert not list(folder.glob("out.onnx*"))
    assert not list(folder.glob(".lissom-*"))


def test_a_good_call_works(folder: Path) -> None:
    assert compress(folder, "--calibration", str(folder / "data.npz"), "--keep-params", "0.95") == 0
    assert (folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("spoil", "code", "sentence"),
    [
        (lambda data: data[: len(data) // 2], 3, "expected an ONNX model"),
        (lambda _: b"plain text, no protobuf", 3, "expected an ONNX model"),
        (lambda _: b"", 3, "expected an ONNX model"),
        (lambda _: network(opset=999).SerializeToString(), 3, "the model's is 999"),
        (lambda _: network(opset=9).SerializeToString(), 3, "--convert-opset 11"),
        (lambda _: network(np.full((64, 3, 3, 3), np.nan)).SerializeToString(), 2, "1728 that are NaN or infinite"),
        (lambda _: network(np.full((64, 3, 3, 3), np.inf)).SerializeToString(), 2, "1728 that are NaN or infinite"),
    ],
    ids=["truncated", "no onnx", "empty", "unknown opset", "old opset", "nan", "inf"],
)
def test_bad_models(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[bytes], bytes],
    code: int,
    sentence: str,
) -> None:
    (folder / "in.onnx").write_bytes(spoil((folder / "in.onnx").read_bytes()))
    got = compress(folder, "--shape", "image:1,3,8,8", "--keep-params", "0.5")
    expect(folder, capsys, got, code, sentence)


def test_a_missing_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(folder, capsys, compress(folder, "--keep-params", "0.5", source="absent.onnx"), 3, "No such file")


def test_a_weight_without_elements(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 4] x) => (float[N, 0] y) { y = MatMul(x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((4, 0), np.float32), "w"))
    (folder / "in.onnx").write_bytes(proto.SerializeToString())
    got = compress(folder, "--shape", "x:2,4", "--keep-params", "0.5")
    expect(folder, capsys, got, 2, "expected a weight without empty dimensions, but 'MatMul_y' has [0, 4]")


@pytest.mark.parametrize("location", [None, "../weights.bin"], ids=["missing", "outside"])
def test_bad_external_data(folder: Path, capsys: pytest.CaptureFixture[str], location: str | None) -> None:
    onnx.save_model(network(), folder / "in.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    if location is not None:
        proto = onnx.load_model(folder / "in.onnx", load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = location
        (folder / "in.onnx").write_bytes(proto.SerializeToString())
    got = compress(folder, "--shape", "image:1,3,8,8", "--keep-params", "0.5")
    expect(folder, capsys, got, 3, "no such file" if location is None else "inside the model's folder")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"image": images(4, 3, 9, 8)}, "expected shape [?, 3, 8, 8] for input 'image'"),
        ({"image": images(4, 8, 8)}, "expected shape [?, 3, 8, 8] for input 'image'"),
        ({"image": images(4, dtype=np.float64)}, "expected float32 for input 'image'"),
        ({"image": images(4).astype(np.uint8)}, "expected float32 for input 'image'"),
        ({"image": images(0)}, "is empty"),
        ({"a": images(4), "b": images(4)}, "expected an array for input 'image'"),
        ({"image": images(4), "labels": np.zeros(3, np.int64)}, "expected 4 entries in array 'labels'"),
        ({"image": np.array([{"a": 1}], dtype=object)}, "without pickled objects"),
        ({"image": with_one(np.nan)}, "expected finite numbers for input 'image'"),
        ({"image": with_one(-np.inf)}, "1 that are NaN or infinite"),
    ],
    ids=["extent", "rank", "float64", "uint8", "empty", "names", "labels", "pickle", "nan", "infinity"],
)
def test_bad_calibration_data(
    folder: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], sentence: str
) -> None:
    np.savez(folder / "bad.npz", **arrays, allow_pickle=True)
    got = compress(folder, "--calibration", str(folder / "bad.npz"), "--keep-params", "0.5")
    expect(folder, capsys, got, 2, sentence)


DEGENERATE = {"one image": images(1), "constant": np.ones((4, 3, 8, 8)), "black": np.zeros((4, 3, 8, 8))}


@pytest.mark.parametrize("pictures", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("recipe", ["lowrank", "pca", "pca-asymmetric"])
def test_calibration_data_that_say_little_still_give_a_network(folder: Path, recipe: str, pictures: np.ndarray) -> None:
    """What the data do not show is taken from the weights: the bounds are met and all outputs are finite."""
    np.savez(folder / "poor.npz", image=pictures.astype(np.float32))
    words = ["--calibration", str(folder / "poor.npz"), "--recipe", recipe, "--keep-params", "0.8"]
    assert compress(folder, *words, "--json", str(folder / "report.json")) == 0
    (output,) = open_session(folder / "out.onnx").run(None, {"image": images(16)})
    assert np.isfinite(output).all()
    assert output.std() > 0


@pytest.mark.parametrize("recipe", ["lowrank", "pca", "pca-asymmetric"])
def test_fewer_rows_than_columns_still_give_a_network(folder: Path, recipe: str) -> None:
    """The Gemm has 64 columns and sees 4 rows: its moment is of rank 4 at most."""
    words = ["--calibration", str(folder / "data.npz"), "--recipe", recipe, "--keep-params", "0.95"]
    assert compress(folder, *words, "--include", "Gemm") == 0
    (output,) = open_session(folder / "out.onnx").run(None, {"image": images(16)})
    assert np.isfinite(output).all()


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [("lowrank", "the input of 'Gemm_logits' is NaN"), ("minimax", "NaN or infinity in logits")],
)
def test_a_network_that_gives_nan(folder: Path, capsys: pytest.CaptureFixture[str], recipe: str, sentence: str) -> None:
    """Statistics name the layer; a recipe without them finds no score for the original."""
    proto = network()
    proto.graph.node[1].op_type = "Log"
    (folder / "in.onnx").write_bytes(proto.SerializeToString())
    words = ["--calibration", str(folder / "data.npz"), "--recipe", recipe, "--keep-params", "0.8"]
    expect(folder, capsys, compress(folder, *words), 2, sentence)


@pytest.mark.parametrize("recipe", ["lowrank", "pca"])
def test_an_activation_that_is_nan_only_on_the_calibration_data(
    folder: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    """The logarithm of a pixel: fine on the validation data, NaN on the calibration data."""
    proto = network()
    proto.graph.node.insert(0, onnx.helper.make_node("Log", ["image"], ["seen"]))
    proto.graph.node[1].input[0] = "seen"
    (folder / "in.onnx").write_bytes(proto.SerializeToString())
    np.savez(folder / "good.npz", image=np.abs(images(4)) + 1, labels=np.zeros(4, np.int64))
    words = ["--calibration", str(folder / "data.npz"), "--validation", str(folder / "good.npz"), "--recipe", recipe]
    expect(folder, capsys, compress(folder, *words, "--keep-params", "0.8"), 2, "'Conv_t' is NaN or infinite")


@pytest.mark.parametrize("labels", [[0, 1, 2, 10], [0, 1, -1, 2]], ids=["too high", "negative"])
def test_labels_out_of_range(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, labels: list[int]
) -> None:
    """Before anything is measured, built or searched."""
    monkeypatch.setattr("lissom.study.price", None)
    np.savez(folder / "bad.npz", image=images(4), labels=np.array(labels))
    got = compress(folder, "--calibration", str(folder / "bad.npz"), "--keep-params", "0.8")
    expect(folder, capsys, got, 2, "expected labels from 0 to 9", f"{min(labels)} to {max(labels)}")


@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_a_metric_of_labels_without_labels(folder: Path, capsys: pytest.CaptureFixture[str], metric: str) -> None:
    np.savez(folder / "plain.npz", image=images(4))
    words = ["--calibration", str(folder / "data.npz"), "--validation", str(folder / "plain.npz")]
    got = compress(folder, *words, "--max-drop", "0.1", "--metric", metric)
    expect(folder, capsys, got, 2, f"expected labels for the metric '{metric}'", "plain.npz has none")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"image": images(0)}, "is empty"),
        ({"image": images(4, 3, 9, 8)}, "expected shape [?, 3, 8, 8] for input 'image'"),
        ({"image": images(4), "labels": np.zeros(5, np.int64)}, "expected 4 entries in array 'labels'"),
        ({"image": with_one(np.nan)}, "expected finite numbers for input 'image'"),
    ],
    ids=["empty", "extent", "labels", "nan"],
)
def test_bad_validation_data(
    folder: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], sentence: str
) -> None:
    np.savez(folder / "bad.npz", **arrays)
    words = ["--calibration", str(folder / "data.npz"), "--validation", str(folder / "bad.npz")]
    expect(folder, capsys, compress(folder, *words, "--keep-params", "0.5"), 2, sentence)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("absent.npz", "No such file"),
        ("in.onnx", "expected data as .npz"),
        ("no_such_module:function", "no_such_module"),
        ("folder", "preprocess.toml"),
    ],
)
def test_unreadable_calibration_data(
    folder: Path, capsys: pytest.CaptureFixture[str], data: str, sentence: str
) -> None:
    (folder / "folder").mkdir()
    name = data if ":" in data else str(folder / data)
    expect(folder, capsys, compress(folder, "--calibration", name, "--keep-params", "0.5"), 2, sentence)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--keep-params", "0"], "keep_params"),
        (["--keep-params", "1.5"], "keep_params"),
        (["--keep-params", "-1"], "keep_params"),
        (["--latency-ratio", "2"], "latency_ratio"),
        (["--max-bytes", "0"], "max_bytes"),
        (["--max-drop", "-0.1"], "max_drop"),
        (["--max-drop", "0.1", "--drop", "sideways"], "drop"),
        (["--keep-params", "many"], "a valid number"),
        ([], "none of keep_params"),
        (["--keep-params", "0.5", "--keep-macs", "0.5"], "one budget"),
        (["--keep-params", "0.5", "--recipe", "no-such-recipe"], "no-such-recipe"),
        (["--keep-macs", "0.5", "--recipe", "alds"], "alds"),
        (["--keep-params", "0.5", "--include", "("], "regular expression"),
        (["--keep-params", "0.5", "--no-such-flag"], "--no-such-flag"),
        (["--keep-params", "0.5", "--shape", "image"], "expected --shape NAME"),
        (["--keep-params", "0.5", "--shape", "picture:1,3,8,8"], "picture"),
        (["--keep-params", "0.5", "--shape", "image:1,4,8,8"], "[1, 4, 8, 8]"),
        (["--keep-params", "0.5", "--shape", "image:0,3,8,8"], "[0, 3, 8, 8]"),
        (["--keep-params", "0.5", "--metric", "no-such-metric"], "no-such-metric"),
        (["--keep-params", "0.5", "--threads", "0"], "threads"),
    ],
)
def test_bad_flags(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    got = compress(folder, "--calibration", str(folder / "data.npz"), *words)
    expect(folder, capsys, got, 2, sentence)


def test_free_axes_without_data_or_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(folder, capsys, compress(folder, "--keep-params", "0.5"), 2, "--shape image")


def test_a_goal_without_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(folder, capsys, compress(folder, "--shape", "image:1,3,8,8", "--max-drop", "0.1"), 2, "--validation")


@pytest.mark.parametrize("ep", ["no-such-ep", "cuda"])
def test_an_absent_execution_provider(folder: Path, capsys: pytest.CaptureFixture[str], ep: str) -> None:
    got = compress(folder, "--calibration", str(folder / "data.npz"), "--keep-params", "0.5", "--ep", ep)
    expect(folder, capsys, got, 3, "CPUExecutionProvider")


def test_an_existing_output_is_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "there.onnx").write_bytes(b"precious")
    got = compress(folder, "--shape", "image:1,3,8,8", "--keep-params", "0.5", output="there.onnx")
    expect(folder, capsys, got, 2, "--overwrite")
    assert (folder / "there.onnx").read_bytes() == b"precious"


def test_the_input_is_never_the_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "in.onnx").read_bytes()
    got = compress(folder, "--shape", "image:1,3,8,8", "--keep-params", "0.5", "--overwrite", output="in.onnx")
    expect(folder, capsys, got, 2, "other than the input")
    assert (folder / "in.onnx").read_bytes() == before


@pytest.mark.parametrize("output", ["absent/out.onnx", "."])
def test_an_unwritable_output(folder: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    got = compress(folder, "--shape", "image:1,3,8,8", "--keep-params", "0.5", output=output)
    expect(folder, capsys, got, 2, "expected a f")


@pytest.mark.parametrize("report", ["absent/report.json", "."])
def test_an_unwritable_report(folder: Path, capsys: pytest.CaptureFixture[str], report: str) -> None:
    words = ["--calibration", str(folder / "data.npz"), "--keep-params", "0.8", "--json", str(folder / report)]
    expect(folder, capsys, compress(folder, *words), 2, "expected a f")


def test_a_report_that_would_replace_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--calibration", str(folder / "data.npz"), "--keep-params", "0.8"]
    expect(folder, capsys, compress(folder, *words, "--json", str(folder / "out.onnx")), 2, "apart from the models")
    expect(folder, capsys, compress(folder, *words, "--json", str(folder / "in.onnx")), 2, "apart from the models")


def test_a_broken_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "preprocess.toml").write_text("size = [8, 8]")
    (folder / "images" / "broken.png").write_bytes(b"no image")
    got = compress(folder, "--calibration", str(folder / "images"), "--keep-params", "0.8")
    expect(folder, capsys, got, 2, "broken.png")


def test_a_data_function_that_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "users_own.py").write_text("def batches():\n    yield {'image': 1 / 0}\n")
    monkeypatch.syspath_prepend(str(folder))
    got = compress(folder, "--calibration", "users_own:batches", "--keep-params", "0.8")
    expect(folder, capsys, got, 2, "ZeroDivisionError")


def test_a_fixed_batch_that_does_not_divide_the_samples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = network()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    (folder / "in.onnx").write_bytes(proto.SerializeToString())
    got = compress(folder, "--calibration", str(folder / "data.npz"), "--keep-params", "0.8")
    expect(folder, capsys, got, 2, "expected a multiple of 3 samples")


def test_no_output_at_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = main(["compress", str(folder / "in.onnx"), "--keep-params", "0.5"])
    expect(folder, capsys, got, 2, "-o OUT.onnx")


@pytest.mark.parametrize("recipe", ["alds", "minimax", "lowrank", "pca", "tiling", "monochromatic"])
def test_a_budget_out_of_reach_names_the_least(folder: Path, capsys: pytest.CaptureFixture[str], recipe: str) -> None:
    got = compress(folder, "--calibration", str(folder / "data.npz"), "--keep-params", "0.001", "--recipe", recipe)
    expect(folder, capsys, got, 1, "the least that")


def test_a_bad_recipe_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.toml").write_text("[low_rank]\nfoldings = [7]\n")
    words = ["--calibration", str(folder / "data.npz"), "--keep-params", "0.5"]
    expect(folder, capsys, compress(folder, *words, "--recipe", str(folder / "recipe.toml")), 2, "foldings")
    (folder / "recipe.toml").write_text("this is no TOML")
    expect(folder, capsys, compress(folder, *words, "--recipe", str(folder / "recipe.toml")), 2, "TOML")
