"""`Target`: a processor profile, as `lissom target` writes it and a person may change it.

A file says which blocks of zeros the processor can use, how parallel it counts, and, where it was measured, from what.
What is derived (`parallelism`, `memory_bound`, `crossover`) is in the file beside what it was derived from
(`classify`, `roofline`), so that a line changed by hand is what counts from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Literal

from lissom_runtime.errors import UsageError
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lissom.presets import read_toml
from lissom.recipe import Method, first_problem
from lissom.target.roofline import estimated_us, is_memory_bound

VERSION: Literal[1] = 1
"""Of the file."""

PRESETS = "target/presets"
"""Where the targets are that ship with lissom."""

Parallelism = Literal["low", "moderate", "high"]
"""Where zeros in blocks pay: everywhere, in memory-bound layers, or nowhere."""

Count = Annotated[int, Field(ge=1, strict=True)]
Measured = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


def _number(value: Any) -> Any:
    """A value that is not true, which Python takes for 1."""
    if value is True:
        raise ValueError("expected a number, but got true")
    return value


Width = Annotated[Literal[1, 2, 4, 8, 16], BeforeValidator(_number)]

FLOAT_BYTES = 4


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Processor(_Strict):
    """The machine that was measured; the facts of `lissom_runtime.target.Machine`."""

    cpu: str
    architecture: str
    isa: tuple[str, ...]
    cores: Count
    system: str
    onnxruntime: str


class Provider(_Strict):
    """What ran there.

    Attributes:
        names: execution providers in priority order.
        threads: within an operator, and of the rates.
    """

    names: tuple[str, ...]
    threads: Count


class Sparse(_Strict):
    """Which zeros the processor can use.

    Attributes:
        pattern: blocks of output channels that share a column ("columns"), or of consecutive columns in a row ("rows").
        widths: weights of a block, ascending; none where zeros are of no use.
    """

    pattern: Literal["columns", "rows"] = "columns"
    widths: tuple[Width, ...] = ()

    @model_validator(mode="after")
    def _widths_ascend(self) -> Sparse:
        if list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"expected ascending widths, but got {list(self.widths)}")
        return self


class Rates(_Strict):
    """What the processor can do at best, with the threads of the provider.

    Attributes:
        stream_gbps: bytes read and written by a large copy, 10⁹ a second.
        gather_gbps: bytes of float32 elements read from random places, 10⁹ a second.
        gmacs: dense multiply-accumulates of the fastest shape, 10⁹ a second.
        busy_threads: threads that really ran during the copy; fewer than the provider's, where other programs ran too.
    """

    stream_gbps: Measured
    gather_gbps: Measured
    gmacs: Measured
    busy_threads: Measured


class LayerShape(_Strict):
    """A layer of stride 1 whose output is as large as its input.

    Attributes:
        name: of the shape.
        op: "Conv" or "Gemm".
        weight: extents of weight[O, C/group, kh, kw] or weight[O, I].
        input: extents of input[N, C, H, W] or input[N, I].
        group: of a convolution.
    """

    name: str
    op: Literal["Conv", "Gemm"]
    weight: tuple[Count, ...]
    input: tuple[Count, ...]
    group: Count = 1

    @model_validator(mode="after")
    def _axes_are_those_of_the_operator(self) -> LayerShape:
        axes = 4 if self.op == "Conv" else 2
        if (len(self.weight), len(self.input)) != (axes, axes):
            raise ValueError(f"expected {axes} axes of a {self.op}, but got {self.weight} and {self.input}")
        return self

    @property
    def output(self) -> tuple[int, ...]:
        """Extents of output[N, O, H, W] or output[N, O]."""
        return (self.input[0], self.weight[0], *self.input[2:])

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, padding counted."""
        return prod(self.weight) * self.input[0] * prod(self.input[2:])

    @property
    def moved_bytes(self) -> int:
        """Bytes of weight, input and output in float32."""
        return FLOAT_BYTES * (prod(self.weight) + prod(self.input) + prod(self.output))


class BlockTimes(_Strict):
    """A layer with zeros in blocks of one width.

    Attributes:
        width: output channels that share a column.
        densities: shares of the blocks that were kept, ascending.
        us: latency at each of them, microseconds.
        crossover: density up to which it is faster than the dense layer; None: at no density.
    """

    width: Width
    densities: Annotated[tuple[Annotated[float, Field(gt=0, lt=1, strict=True)], ...], Field(min_length=1)]
    us: tuple[Measured, ...]
    crossover: Measured | None = None

    @model_validator(mode="after")
    def _each_density_has_a_time(self) -> BlockTimes:
        if len(self.densities) != len(self.us) or list(self.densities) != sorted(set(self.densities)):
            raise ValueError(f"expected ascending densities and as many us, but got {self.densities} and {self.us}")
        if self.crossover is not None and self.crossover > self.densities[-1]:
            raise ValueError(f"expected a crossover of at most {self.densities[-1]:g}, but got {self.crossover:g}")
        return self


class MeasuredShape(LayerShape):
    """A layer as it ran.

    Attributes:
        dense_us: latency without zeros, microseconds.
        memory_bound: whether moving its bytes took at least half of that.
        blocks: latencies with zeros, by width; none where the operators for them did not run.
    """

    dense_us: Measured
    memory_bound: bool
    blocks: tuple[BlockTimes, ...] = ()

    @model_validator(mode="after")
    def _each_width_is_there_once(self) -> MeasuredShape:
        _require_distinct("widths", [times.width for times in self.blocks])
        return self

    def crossover(self, width: int) -> float | None:
        """Density up to which blocks of `width` are faster than the dense layer; None: at none, or not measured."""
        return next((times.crossover for times in self.blocks if times.width == width), None)


class Target(_Strict):
    """A processor profile.

    Attributes:
        version: of the file.
        name: as it appears in errors; the file's, unless it says otherwise.
        description: one sentence.
        parallelism: where zeros in blocks pay.
        simd_width: float32 elements of a vector.
        channel_block: channels that are left of a layer are a multiple of this.
        kernels: instruction set of lissom's kernels that ran; None: they did not.
        processor: the machine that was measured; None for a class of processors.
        provider: what ran there.
        sparse: which zeros the processor can use.
        rates: what it can do at best; a moderate target without them could not tell its layers apart.
        shapes: layers as they ran.
    """

    version: Literal[1]
    name: str = ""
    description: str = ""
    parallelism: Parallelism
    simd_width: Count
    channel_block: Count
    kernels: str | None = None
    processor: Processor | None = None
    provider: Provider | None = None
    sparse: Sparse = Sparse()
    rates: Rates | None = None
    shapes: tuple[MeasuredShape, ...] = ()

    @model_validator(mode="after")
    def _class_has_what_it_needs(self) -> Target:
        _require_distinct("names of shapes", [shape.name for shape in self.shapes])
        if self.parallelism == "moderate" and self.rates is None:
            raise ValueError('expected rates for the parallelism "moderate", but got none')
        if self.parallelism != "high" and not self.sparse.widths:
            raise ValueError(f'expected widths in sparse for the parallelism "{self.parallelism}", but got none')
        return self

    def favours(self, macs: float, weight_bytes: float, activation_bytes: float) -> Method:
        """The method for a layer: blocks of zeros where they pay, else whole channels.

        Args:
            macs: multiply-accumulates of the layer.
            weight_bytes: bytes of its weight.
            activation_bytes: bytes of its input and output.
        """
        if self.parallelism != "moderate":
            return "sparse" if self.parallelism == "low" else "nodes"
        rates, moved = self.rates, weight_bytes + activation_bytes
        assert rates is not None
        latency_us = estimated_us(macs, moved, rates.stream_gbps, rates.gmacs)
        return "sparse" if is_memory_bound(moved, latency_us, rates.stream_gbps) else "nodes"


def _require_distinct(what: str, values: Sequence[Any]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"expected {what} that differ, but got {list(values)}")


def read_target(name_or_path: str) -> Target:
    """Reads a preset by name, or a target file.

    Raises:
        UsageError: there is no such target, it is of another version, or it is malformed.
    """
    told: dict[str, Any] = read_toml(name_or_path, PRESETS, "target")
    if told.get("version") != VERSION or isinstance(told["version"], bool):
        raise UsageError(
            f"expected a target of version {VERSION}, but {name_or_path!r} has {told.get('version', 'no version')!r}"
        )
    try:
        return Target.model_validate(told)
    except ValidationError as error:
        raise UsageError(f"expected a valid target, but in {name_or_path!r} {first_problem(error)}") from error


def require_here(target: Target, machine: Machine, provider: ProviderRequest) -> None:
    """Refuses a target where it is to go with measurements of this machine, and is of another.

    Args:
        target: the target.
        machine: this machine.
        provider: what the measurements run on.

    Raises:
        UsageError: its processor or what ran there is another one, or it is a class of processors.
    """
    here = f"expected a target of this machine, {machine.cpu} ({machine.architecture}), but {target.name!r}"
    there = target.processor
    if there is None:
        raise UsageError(f"{here} was measured on none: it is a class of processors")
    if (there.cpu, there.architecture) != (machine.cpu, machine.architecture):
        raise UsageError(f"{here} was measured on {there.cpu} ({there.architecture})")
    if differing := machine.isa.symmetric_difference(there.isa):
        raise UsageError(f"{here} was measured on one with other instruction sets: {', '.join(sorted(differing)[:4])}")
    ran = target.provider
    if ran is not None and (ran.names, ran.threads) != (tuple(provider.names), provider.threads):
        raise UsageError(
            f"expected a target of {_told(provider.names, provider.threads)}, but {target.name!r} was measured with "
            f"{_told(ran.names, ran.threads)}"
        )


def _told(names: Sequence[str], threads: int) -> str:
    return f"{', '.join(names)} and {threads} thread(s)"
