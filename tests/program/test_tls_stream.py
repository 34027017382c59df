"""Streams over TLS, where asyncio's transport reports a full buffer differently."""

import sys
from pathlib import Path

import pytest
import requests

from support import free_port, running
from support.couplings import self_signed
from support.writer import opened


@pytest.mark.parametrize("path", ["/data", "/data?follow"])
def test_over_tls_numbers_come_one_by_one(tmp_path: Path, path: str) -> None:
    self_signed(tmp_path, "127.0.0.1")
    data, port = tmp_path / "data", free_port()
    settings = {"ECHO_SOURCE": str(data), "ECHO_LISTEN": f"127.0.0.1:{port}"}
    settings |= {"ECHO_TLS_CERT": str(tmp_path / "certificate"), "ECHO_TLS_KEY": str(tmp_path / "key")}
    with opened(data) as folder, running([sys.executable, "-m", "echo"], settings) as echo:
        folder.append(b"0\n")
        echo.wait_for_log("^serving ")
        url, authority = f"https://127.0.0.1:{port}{path}", str(tmp_path / "certificate")
        with requests.get(
            url, headers={"Range": "bytes=0-9007199254740991"}, stream=True, verify=authority, timeout=10
        ) as response:
            for number in range(5):
                assert response.raw.read(2) == b"%d\n" % number
                folder.append(b"%d\n" % (number + 1))
