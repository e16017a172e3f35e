"""Promises of ``stillhouse doctor``: it says what will not work, and only then fails."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from stillhouse.setting_up import doctor
from stillhouse.setting_up.doctor import Finding, examined, judged
from stillhouse.setting_up.packages import Package

NEEDED = Package("torch", "", ">=2.13", "2.13.0")
OPTIONAL = Package("onnx", "export", ">=1.17", "1.23.2", "export")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def found(what: str, *, online: bool = False) -> list[Finding]:
    return [finding for finding in examined(online=online) if finding.what == what]


def one(what: str) -> Finding:
    (finding,) = found(what)
    return finding


def test_this_machine_is_well() -> None:
    findings = examined()
    assert {finding.level for finding in findings} <= {"ok", "warn"}
    assert {"Python", "stillhouse", "torch", "transformers", "CPU", "threads", "cache", "disk of the cache",
            "hub settings"} <= {finding.what for finding in findings}
    assert one("torch").text.startswith(torch.__version__.partition("+")[0])
    assert "hub" not in {finding.what for finding in findings}, "the network is left alone unless asked for"


@pytest.mark.parametrize(("package", "version", "level", "words"), [
    (NEEDED, "2.13.0+cpu", "ok", "2.13.0+cpu"),
    (NEEDED, "2.14.1", "ok", "tested with 2.13.0"),
    (NEEDED, "3.0.0", "warn", "tested with 2.13.0"),
    (NEEDED, "2.12.0", "fail", 'pip install "torch>=2.13"'),
    (NEEDED, None, "fail", 'pip install "torch>=2.13"'),
    (OPTIONAL, None, "ok", 'not installed (for export): pip install "stillhouse[export]"'),
    (OPTIONAL, "1.0", "warn", 'cannot be used: pip install "onnx>=1.17"'),
    (OPTIONAL, "1.23.2", "ok", "1.23.2 (for export)"),
    (NEEDED, "2.13-of-ours", "warn", "2.13-of-ours is no version"),
])
def test_versions_are_judged_by_what_works(package: Package, version: str | None, level: str, words: str) -> None:
    finding = judged(package, version)
    assert finding.level == level and words in finding.text


def test_all_of_mlflow_will_do_for_its_small_form(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "mlflow-skinny":
            raise importlib.metadata.PackageNotFoundError(name)
        return "3.17.2" if name == "mlflow" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert one("mlflow-skinny").text.startswith("3.17.2")


@pytest.mark.parametrize(("wants", "level"), [("torch==2.12.0", ["fail"]), ("torch==2.13.0", [])])
def test_a_companion_for_another_torch_is_said(monkeypatch: pytest.MonkeyPatch, wants: str, level: list[str]) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.27.0"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", wants])
    findings = list(doctor._companions())
    assert [finding.level for finding in findings] == level
    assert all("pip install -U torchvision" in finding.text for finding in findings)


def test_devices_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert one("cuda:0").text == "Some GPU, 60.0 GB of 80.0 GB free, bf16 in hardware"


def test_a_driver_without_a_device_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_NVIDIA", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    finding = one("CUDA")
    assert finding.level == "warn" and "build without CUDA" in finding.text
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "the driver may be too old" in one("CUDA").text


@pytest.mark.parametrize(("threads", "cores", "level"), [(8, 2, "warn"), (2, 2, "ok"), (4, 8, "ok"), (1, 16, "warn")])
def test_threads_fit_the_cores(monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, level: str) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    finding = one("threads")
    assert finding.level == level and f"{threads} for {cores} cores" in finding.text


def test_the_cache_is_measured_and_not_made(own_cache: Path) -> None:
    assert "nothing yet" in one("cache").text and not own_cache.exists()
    (own_cache / "signals").mkdir(parents=True)
    (own_cache / "signals" / "data.mdb").write_bytes(bytes(12_345))
    assert "12.3 kB" in one("cache").text


def test_a_cache_that_cannot_be_written_fails(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = one("cache")
    assert finding.level == "fail" and "set STILLHOUSE_CACHE" in finding.text
    monkeypatch.undo()
    (own_cache.parent / "file").touch()
    monkeypatch.setenv("STILLHOUSE_CACHE", str(own_cache.parent / "file" / "cache"))
    assert one("cache").level == "fail"


def test_a_cache_on_a_network_disk_is_said(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = f"/dev/root / ext4 rw 0 0\nserver:/home {own_cache.parent} nfs4 rw 0 0\n"
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *args, **kwargs: mounts if str(path) == "/proc/mounts"
                        else real(path, *args, **kwargs))
    findings = found("cache")
    assert [finding.level for finding in findings] == ["ok", "warn"] and "(nfs4)" in findings[1].text


@pytest.mark.parametrize(("free", "level"), [(10**6, "fail"), (10**9, "warn"), (10**11, "ok")])
def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 0, free))
    assert one("disk of the cache").level == one("disk of this folder").level == level


def test_settings_are_shown_and_secrets_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    monkeypatch.setenv("HF_HOME", "/models")
    text = one("hub settings").text
    assert "HF_HOME=/models" in text and "HF_TOKEN is set" in text and "secret" not in text
    assert "nothing is fetched" in text  # tests run with HF_HUB_OFFLINE=1
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    assert "nothing is fetched" not in one("hub settings").text


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub on this machine that answers with what its class says."""
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield os.environ["HF_ENDPOINT"]
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_hub_is_asked_only_with_online(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("hub") == []
    assert [finding.level for finding in found("hub", online=True)] == ["ok"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (finding,) = found("hub", online=True)
    assert finding.level == "warn" and "cannot be reached" in finding.text
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc/hosts")
    assert [finding.level for finding in found("hub", online=True)] == ["fail"]


def test_a_check_that_fails_itself_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> int:
        raise RuntimeError("a strange disk")

    monkeypatch.setattr(doctor, "free_bytes", broken)
    assert one("disk").level == "warn" and "a strange disk" in one("disk").text
    assert one("hub settings").level == "ok"


def test_a_torch_that_cannot_be_imported_fails() -> None:
    code = ("import sys; sys.modules['torch'] = None\n"
            "from stillhouse.setting_up.doctor import examined\n"
            "print([f.text for f in examined() if f.what == 'devices'], [f.level for f in examined()].count('fail'))")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}).stdout
    assert "torch cannot be imported" in said and said.strip().endswith("1")
