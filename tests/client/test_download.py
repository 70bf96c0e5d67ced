"""What arrives is whole and checked, however often the connection breaks."""

import hashlib
import random

import pytest

from deserve_client.download import download
from deserve_client.errors import ClientError, UnreachableError

CONTENT = random.Random(1).randbytes(300_000)


@pytest.fixture
def file_id(coordinator):
    coordinator.files["file-x"] = CONTENT
    return "file-x"


def leftovers(directory):
    return [path.name for path in directory.iterdir() if path.name.endswith(".part")]


async def test_whole(client, file_id, tmp_path):
    seen: list[int] = []
    warnings: list[str] = []
    target = tmp_path / "out"
    assert await download(client, file_id, target, on_progress=seen.append, warn=warnings.append) == len(CONTENT)
    assert target.read_bytes() == CONTENT
    assert (seen[-1], warnings, leftovers(tmp_path)) == (len(CONTENT), [], [])


async def test_resumes_where_it_broke_off(client, coordinator, file_id, tmp_path):
    coordinator.cut_after.extend([100_000, 1, 150_000])
    await download(client, file_id, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    ranges = [request[2] for request in coordinator.requests]
    assert ranges[0] == ""
    assert len(ranges) == 4
    assert all(text.startswith("bytes=") for text in ranges[1:])


async def test_starts_over_where_ranges_are_not_offered(client, coordinator, file_id, tmp_path):
    coordinator.with_ranges = False
    coordinator.cut_after.extend([100_000, 200_000])
    await download(client, file_id, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


async def test_a_later_command_continues(client, coordinator, file_id, tmp_path, slept):
    coordinator.cut_after.extend([100_000, *[0] * 20])
    with pytest.raises(UnreachableError):
        await download(client, file_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == [".out.file-x.part"]
    coordinator.cut_after.clear()
    coordinator.requests.clear()
    await download(client, file_id, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert [request[2] for request in coordinator.requests] == ["bytes=100000-"]


@pytest.mark.parametrize("part", [b"from another time", CONTENT + b"longer", CONTENT])
async def test_whatever_part_lies_there_the_result_is_right(client, file_id, tmp_path, part):
    (tmp_path / ".out.file-x.part").write_bytes(part)
    await download(client, file_id, tmp_path / "out")
    assert hashlib.sha256((tmp_path / "out").read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


async def test_a_wrong_digest_leaves_nothing(client, coordinator, file_id, tmp_path):
    coordinator.wrong_content = True
    with pytest.raises(ClientError, match="digest"):
        await download(client, file_id, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


async def test_no_digest_is_a_warning(client, coordinator, file_id, tmp_path):
    coordinator.with_digest = False
    warnings: list[str] = []
    await download(client, file_id, tmp_path / "out", warn=warnings.append)
    assert len(warnings) == 1
    assert (tmp_path / "out").read_bytes() == CONTENT


async def test_busy_is_retried_and_refusal_is_not(client, coordinator, file_id, tmp_path, slept):
    coordinator.refuse.extend([503, 429])
    await download(client, file_id, tmp_path / "out")
    assert len(slept) == 2
    with pytest.raises(ClientError, match="no such file"):
        await download(client, "file-none", tmp_path / "out")
