from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.faults.broken_tier1 import FAULTS, BrokenTier1
from orpheus import embedded, weights
from orpheus import hub as hub_module
from orpheus.errors import SetupError, WeightsError
from orpheus.gpu import Gpu
from orpheus.llama.gpu_memory import find_model
from orpheus.settings import REAL_CODEC, REAL_MODEL, load_settings
from tests.support.hub import COMMIT, GGUF, TOKEN, Hub, use_hub
from tests.support.live import free_port, served


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this machine, and an empty cache."""
    hub = Hub()
    hub.files = {
        "lex-au/Orpheus-3b-FT-Q8_0.gguf": {"Orpheus-3b-FT-Q8_0.gguf": GGUF},
        "lex-au/Orpheus-3b-FT-Q4_K_M.gguf": {"Orpheus-3b-FT-Q4_K_M.gguf": GGUF},
        "lex-au/Orpheus-3b-FT-Q2_K.gguf": {"Orpheus-3b-FT-Q2_K.gguf": GGUF},
        "some/one": {"README.md": b"", "only.gguf": GGUF},
        "some/two": {"a.gguf": GGUF, "b.gguf": GGUF},
        "some/none": {"README.md": b""},
        "some/page": {"model.gguf": b"<html>"},
        "hubertsiuzdak/snac_24khz": {"config.json": b"{}", "pytorch_model.bin": b"x"},
    }
    with served(hub.app) as url:
        use_hub(monkeypatch, url, tmp_path)
        yield hub


def model(name: str | None, **more: object) -> Path:
    return weights.find_model(load_settings(model=name, **more))


def test_without_a_gpu_the_embedded_voice_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "gpu_keeps_up", lambda: False)
    assert model(None) == embedded.MODEL
    assert weights.find_codec(load_settings()) == embedded.CODEC


def test_with_a_gpu_the_published_model_and_its_codec_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "gpu_keeps_up", lambda: True)
    assert weights.model_name(load_settings()) == REAL_MODEL
    assert weights.codec_name(load_settings()) == REAL_CODEC
    assert weights.codec_name(load_settings(model="embedded")) == "embedded"


def test_llama_cpp_decides_whether_this_machine_has_a_gpu() -> None:
    assert weights.gpu_keeps_up() in (True, False)


def test_the_embedded_files_are_there_and_small() -> None:
    sizes = [p.stat().st_size for p in (embedded.MODEL, *embedded.CODEC.iterdir())]
    assert sum(sizes) <= 25_000_000


def test_a_path_wins_over_a_repository_of_the_same_name(hub: Hub) -> None:
    Path("some").mkdir()
    Path("some/one").write_bytes(GGUF)
    assert model("some/one") == Path("some/one")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("lex-au/Orpheus-3b-FT-Q8_0.gguf", "Orpheus-3b-FT-Q8_0.gguf"),
        ("lex-au/Orpheus-3b-FT-Q8_0.gguf@main", "Orpheus-3b-FT-Q8_0.gguf"),
        ("lex-au/Orpheus-3b-FT-Q4_K_M.gguf", "Orpheus-3b-FT-Q4_K_M.gguf"),
        ("lex-au/Orpheus-3b-FT-Q2_K.gguf", "Orpheus-3b-FT-Q2_K.gguf"),
        ("some/one", "only.gguf"),
        (f"some/two@{COMMIT}:b.gguf", "b.gguf"),
    ],
)
def test_a_repository_is_fetched_once(hub: Hub, name: str, file: str) -> None:
    path = model(name)
    assert path.name == file
    assert path.read_bytes() == GGUF
    assert model(name) == path
    assert len(hub.asked) == 1


def test_a_codec_is_fetched_as_a_folder(hub: Hub) -> None:
    folder = weights.find_codec(load_settings(model="x", codec="hubertsiuzdak/snac_24khz"))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/such", "neither a path here nor a repository"),
        ("some/two", r"some/two:a\.gguf"),
        ("some/none", "no GGUF file"),
        ("some/one:gone.gguf", r"no file 'gone\.gguf'"),
        ("some/one@v9", "no revision 'v9'"),
        ("some/page:model.gguf", "is not a GGUF file"),
        ("./nothing.gguf", "is not a file here"),
        ("/nothing.gguf", "is not a file here"),
        ("a/b/c.gguf", "is not a file here. Give the path of a GGUF file, owner/repo or owner/repo:file"),
        (str(embedded.CODEC), "is a checkpoint that is not a GGUF"),
        (str(embedded.CODEC.parent.parent), "is a folder without a GGUF file"),
        ("a--b/c..d", "is not a file here"),
        ("-a/b-", "no valid repository name"),
        ("foo/bar--baz.gguf", "no valid repository name"),
        ("foo/" + "x" * 300, "no valid repository name"),
        ("x" * 300 + ".gguf", "is not a file here"),
        ("~nobody-of-that-name/x.gguf", "is not a file here"),
        ("a\0b", "is not a file here"),
    ],
)
def test_each_wrong_name_is_one_sentence(hub: Hub, name: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        model(name)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_gated_repository_asks_for_the_token_and_takes_it(hub: Hub) -> None:
    hub.gated.add("some/one")
    with pytest.raises(WeightsError, match="HF_TOKEN"):
        model("some/one:only.gguf")
    Path(".env").write_text(f"HF_TOKEN={TOKEN}\n")
    assert model("some/one:only.gguf").read_bytes() == GGUF


def test_a_hub_that_cannot_be_reached_says_so_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_hub(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path)
    unhurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # its retries wait 15 s
    monkeypatch.setattr("huggingface_hub.utils._http.time", unhurried)
    for name in ("some/one", "some/one:only.gguf"):
        with pytest.raises(WeightsError, match=r"cannot be reached.*'embedded'"):
            model(name)
    with pytest.raises(WeightsError, match="ORPHEUS_CODEC"):
        weights.find_codec(load_settings(codec="some/snac"))


@pytest.mark.parametrize("name", ["some/one", "some/one:only.gguf", "lex-au/Orpheus-3b-FT-Q8_0.gguf"])
def test_a_hub_that_accepts_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setattr(hub_module, "STALL_S", 0.6)
    monkeypatch.setattr(hub_module, "REPORT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_hub(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        with pytest.raises(WeightsError, match=r"sent nothing for 0\.6 s.*(some|lex-au).*'embedded'"):
            model(name)
    assert "nothing from the Hugging Face hub" in caplog.text


def test_a_hub_whose_error_has_no_end_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub_module, "STALL_S", 0.6)
    with BrokenTier1().served() as endless:
        endless.health = FAULTS["a slow 500"].play
        use_hub(monkeypatch, endless.url, tmp_path)
        with pytest.raises(WeightsError, match=r"sent nothing for 0\.6 s|answered 500"):
            model("some/one:only.gguf")


def test_a_download_that_stops_in_the_middle_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "STALL_S", 0.6)
    hub.hangs.add("only.gguf")
    with pytest.raises(WeightsError, match="start again, which resumes"):
        model("some/one")


def test_a_slow_download_that_goes_on_is_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "STALL_S", 0.6)
    hub.drips, hub.drip_s = {"only.gguf"}, 0.15  # longer than the limit in all
    assert model("some/one").read_bytes() == GGUF


def test_what_is_fetched_is_told_before_with_its_size_and_where_it_goes(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        model("some/one:only.gguf")
    (told,) = [line for line in caplog.messages if line.startswith("fetching")]
    assert "only.gguf of some/one from the Hugging Face hub: 0.0 MB into" in told
    assert f"{tmp_path}/hub, where " in told
    assert told.endswith(" GB are free")


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_size_of", lambda *_: 3_516_000_000)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_200_000_000))
    with pytest.raises(WeightsError, match=r"takes 3\.5 GB.*has 1\.2 GB free.*HF_HOME.*'embedded'"):
        model("lex-au/Orpheus-3b-FT-Q8_0.gguf")
    assert hub.asked == []


def test_what_an_earlier_try_has_left_takes_no_more_room(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = tmp_path / "hub/models--some--one/blobs/0123.incomplete"
    left.parent.mkdir(parents=True)
    with left.open("wb") as file:
        file.truncate(3_000_000_000)
    monkeypatch.setattr(hub_module, "_size_of", lambda *_: 3_516_000_000)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_200_000_000))
    with caplog.at_level(logging.INFO):
        model("some/one:only.gguf")
    assert "the remaining 0.5 GB of 3.5 GB" in caplog.text


def test_a_file_that_arrives_damaged_is_removed_and_fetched_anew(hub: Hub) -> None:
    hub.damaged.add("only.gguf")
    with pytest.raises(WeightsError, match=r"arrived damaged.*start again"):
        model("some/one:only.gguf")
    hub.damaged.clear()
    assert model("some/one:only.gguf").read_bytes() == GGUF


@pytest.mark.parametrize(
    ("gib", "streams", "says"),
    [
        (5, None, r"does not hold the model.*Orpheus-3b-FT-Q4_K_M\.gguf.*'embedded'"),
        (12, 32, r"ORPHEUS_STREAMS=28.*ORPHEUS_KV_TYPE=q8_0.*Q4_K_M"),
    ],
)
def test_a_card_without_room_is_told_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, gib: int, streams: int | None, says: str
) -> None:
    size = gib << 30
    monkeypatch.setattr("orpheus.gpu.find_gpu", lambda: Gpu("CUDA0", "NVIDIA", False, size, size, 500))
    monkeypatch.setattr(hub_module, "_size_of", lambda *_: 3_516_000_000)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    with pytest.raises(SetupError, match=says):
        find_model(load_settings(model="lex-au/Orpheus-3b-FT-Q8_0.gguf", streams=streams))
    assert hub.asked == []


def test_a_card_with_room_is_told_what_it_will_hold(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orpheus.gpu.find_gpu", lambda: Gpu("CUDA0", "NVIDIA", False, 1 << 36, 1 << 36, 500))
    monkeypatch.setattr(hub_module, "_size_of", lambda *_: 3_516_000_000)
    with caplog.at_level(logging.INFO):
        find_model(load_settings(model="lex-au/Orpheus-3b-FT-Q8_0.gguf"))
    assert "this engine takes 11.3 GiB: weights 3.3, caches of 32 streams 7.4" in caplog.text
    assert "the codec takes up to 1.5 beside them" in caplog.text


def test_a_cached_copy_needs_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = model("some/one:only.gguf")
    use_hub(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path)
    assert model("some/one:only.gguf") == path
    assert model("some/one") == path  # the only one there, as when it was fetched
    with pytest.raises(WeightsError, match="cannot be reached"):
        model("some/two")


@pytest.mark.parametrize("version", [b"\x01\0\0\0", b"\x63\0\0\0", b"\0\0\0\x03"])
def test_a_gguf_of_a_version_that_cannot_be_read_is_refused(version: bytes) -> None:
    Path("x.gguf").write_bytes(b"GGUF" + version)
    with pytest.raises(WeightsError, match="a GGUF of version"):
        model("x.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04 zip", b"GGML....."])
def test_a_file_that_is_not_a_gguf_is_refused(content: bytes) -> None:
    Path("x.gguf").write_bytes(content)
    with pytest.raises(WeightsError, match="not a GGUF file"):
        model("x.gguf")


def test_a_folder_that_is_not_a_codec_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"no config\.json"):
        weights.find_codec(load_settings(codec="."))
    with pytest.raises(WeightsError, match="is not a folder here"):
        weights.find_codec(load_settings(codec="./gone"))


def test_weights_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    content = os.urandom(8_000_000)
    first.write_bytes(content)
    second.write_bytes(content)
    assert weights.identity(first) == weights.identity(second)
    trained = bytes(byte ^ 1 for byte in content)
    for other in (trained, content[:-1], b""):
        second.write_bytes(other)
        assert weights.identity(first) != weights.identity(second)
    blob = tmp_path / ("a" * 64)  # as the hub's cache keeps it
    blob.write_bytes(content)
    second.unlink()
    second.symlink_to(blob)
    assert weights.identity(second) == "a" * 64
