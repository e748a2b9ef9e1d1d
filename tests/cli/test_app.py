import asyncio
import os
import socket
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.commands import app
from thfuse_sam.errors import CheckpointError
from thfuse_sam.fusion.session import FusionSession
from thfuse_sam.models import build_network
from thfuse_sam.options.app import LimitSettings
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.nano import build_vit_nano

ROOT = Path(__file__).resolve().parents[2]

main = cli_commands.app.main


@pytest.fixture(autouse=True)
def environment() -> None:
    """The command sets variables of its own process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
            patch.setenv(name, os.environ.get(name, ""))
        yield


@pytest.fixture
def session() -> FusionSession:
    torch.manual_seed(0)
    generator = AutomaticMaskGenerator(build_vit_nano(64).eval(), GeneratorSettings(points_per_side=2))
    limits = LimitSettings(max_upload_mb=0.001)
    return FusionSession(build_network("thfuse_lite"), generator, torch.device("cpu"), limits)


def client(session: FusionSession, files: Path, monkeypatch, *, host: str = "127.0.0.1", base: str | None = None):
    pytest.importorskip("gradio", reason="gradio is not installed; pip install 'th-fuse-sam[app]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for newer versions of what it stands on
        from starlette.testclient import TestClient

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(files))

    async def build():
        return app.build_app({"vit_nano": lambda: session}, [], files, host=host, folders=app.is_loopback(host))

    # Where no event loop runs, Gradio makes some and closes none. In a thread of its own, as the browser tests leave
    # Playwright's loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        built = thread.submit(lambda: asyncio.run(build())).result()
    return TestClient(built, base_url=base or f"http://{host}")


def test_without_gradio_says_how_to_get_it(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([]) == 2
    assert "pip install 'th-fuse-sam[app]'" in capsys.readouterr().err


def test_taken_port_is_an_error_in_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(app, "_require_gradio", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--device", "cpu", "--port", str(taken.getsockname()[1])]) == 2
    err = capsys.readouterr().err
    assert "cannot listen there" in err and len(err.strip().splitlines()) == 1


def test_listens_on_this_machine_alone_by_default() -> None:
    options = cli_commands.app.build_parser().parse_command([]).options
    assert app.is_loopback(options.host) and not options.allow_folders


def test_models_to_choose_from(tmp_path) -> None:
    def found(*argv: str) -> dict[str, tuple[str, Path | None]]:
        sams = app.find_sams(cli_commands.app.build_parser().parse_command(list(argv)).options)
        return {name: (sam.sam_model_type, sam.sam_checkpoint) for name, sam in sams.items()}

    file = ROOT / "models" / "vit_nano.safetensors"
    assert found() == {"vit_nano": ("vit_nano", None)}
    assert found("--sam_checkpoint", str(file)) == {file.name: ("auto", file)}
    more = found("--sam_model_type", "vit_t", "--more_sams", "vit_nano", str(file))
    assert more == {"vit_t": ("vit_t", None), "vit_nano": ("vit_nano", None), file.name: ("auto", file)}
    (tmp_path / "empty").mkdir()
    for text, message in ((tmp_path / "empty", "without config.json"), (tmp_path / "none", "is no folder")):
        with pytest.raises(CheckpointError, match=message) as caught:
            found("--more_sams", str(text))
        assert caught.value.field == "more_sams"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "example.org"])
def test_other_addresses_are_not_loopback(host) -> None:
    assert not app.is_loopback(host)


def test_missing_samples_are_no_error(tmp_path, caplog) -> None:
    assert app.find_samples(tmp_path) == []
    assert "no samples" in caplog.text


def test_foreign_host_names_are_refused(session, tmp_path, monkeypatch) -> None:
    assert client(session, tmp_path, monkeypatch).get("/").status_code == 200
    assert client(session, tmp_path, monkeypatch, base="http://evil.example").get("/").status_code == 400


def test_folders_are_not_offered_to_others(session, tmp_path, monkeypatch) -> None:
    assert "Output folder" in client(session, tmp_path, monkeypatch).get("/config").text
    assert "Output folder" not in client(session, tmp_path, monkeypatch, host="0.0.0.0").get("/config").text


def test_large_uploads_are_refused(session, tmp_path, monkeypatch) -> None:
    files = {"files": ("a.png", b"\0" * 5000, "image/png")}
    answer = client(session, tmp_path, monkeypatch).post("/gradio_api/upload", files=files)
    assert answer.status_code == 413 and "size" in answer.text
