"""Finding the kernel library, and saying in one line when there is none."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import lissom_runtime
import onnxruntime
import pytest
from lissom_runtime import library
from lissom_runtime.errors import LoadError


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The `lib` folder of an installation that nothing was built into."""
    monkeypatch.delenv(library.OVERRIDE, raising=False)
    monkeypatch.setattr(lissom_runtime, "__path__", [str(tmp_path)])
    library.load.cache_clear()
    (tmp_path / "lib").mkdir()
    yield tmp_path / "lib"
    library.load.cache_clear()


def test_without_the_library_one_line_names_the_portable_path(installation: Path) -> None:
    assert not library.available()
    with pytest.raises(LoadError, match="got an installation built without a C\\+\\+ compiler"):
        library.get_library_path()
    line = library.describe()
    assert "portable path" in line
    assert "\n" not in line


def test_a_file_that_is_no_library_is_named(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.sys, "platform", "linux")
    (installation / "liblissom_runtime.so").write_bytes(b"not a library")
    assert not library.available()
    with pytest.raises(LoadError, match=r"expected a loadable kernel library at .*liblissom_runtime\.so, got: "):
        library.load()


def test_without_the_library_registering_is_one_sentence(installation: Path) -> None:
    with pytest.raises(LoadError, match="got an installation built without a C\\+\\+ compiler"):
        lissom_runtime.register(onnxruntime.SessionOptions())


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
def test_an_installation_with_a_compiler_has_the_library() -> None:
    """Otherwise a library that no longer compiles would only skip the tests of its kernels."""
    assert library.available(), library.describe()


def test_the_environment_names_another_library(
    installation: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.so"
    monkeypatch.setenv(library.OVERRIDE, str(other))
    with pytest.raises(LoadError, match=f"expected {library.OVERRIDE} to name a shared library, got .*other.so"):
        library.get_library_path()
    other.touch()
    assert library.get_library_path() == other
    monkeypatch.setenv(library.OVERRIDE, "")
    with pytest.raises(LoadError, match="in lissom_runtime/lib"):
        library.get_library_path()


def test_an_unknown_instruction_set_is_refused_in_one_sentence(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.LIMIT, "sse9")
    with pytest.raises(LoadError, match=r"expected LISSOM_ISA to be one of scalar, .*avx512, got 'sse9'$"):
        library.load()
    assert not library.available()
    assert library.describe().endswith("got 'sse9'")


def test_an_empty_limit_of_the_instruction_set_is_none(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.LIMIT, "")
    with pytest.raises(LoadError, match="in lissom_runtime/lib"):
        library.load()


@pytest.mark.native
@pytest.mark.skipif(not library.available(), reason=library.describe())
class TestBuilt:
    @pytest.mark.skipif(bool(os.environ.get(library.OVERRIDE)), reason=f"{library.OVERRIDE} names another library")
    def test_the_library_is_inside_the_package(self) -> None:
        assert library.get_library_path().parts[-3:-1] == ("lissom_runtime", "lib")
        assert str(library.get_library_path()) in library.describe()

    def test_another_interface_version_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "ABI", library.ABI + 1)
        library.load.cache_clear()
        with pytest.raises(LoadError, match=f"expected version {library.ABI} .*, got {library.ABI - 1}"):
            library.load()
        library.load.cache_clear()

    def test_the_description_names_the_best_instruction_set_within_the_limit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(library.LIMIT, raising=False)
        best = library.instruction_set()
        assert f"native kernels ({best}) from " in library.describe()
        for limit, most in library.INSTRUCTION_SETS.items():
            monkeypatch.setenv(library.LIMIT, limit)
            used = library.instruction_set()
            assert f"native kernels ({used}) from " in library.describe()
            assert library.INSTRUCTION_SETS[used] == min(most, library.INSTRUCTION_SETS[best])
        assert used == best
