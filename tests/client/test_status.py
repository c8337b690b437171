"""`client.status`: what works is said, what does not is explained, and nothing raises."""

from __future__ import annotations

import pandas as pd

from cortexclient.sandbox import Sandbox


def test_every_service_is_asked_and_none_takes_the_others_along():
    with Sandbox(size="tiny") as sandbox:
        client = sandbox.load(retries=0)
        frame = client.status()
        assert frame.index.tolist() == [
            "server",
            "datastack",
            "materialize",
            "versions",
            "tables",
            "chunkedgraph",
            "l2cache",
            "skeletons",
        ]
        assert frame["ok"].all()
        assert frame["error"].isna().all()
        assert "newest 3" in frame.loc["versions", "message"]
        assert frame.attrs["dataset"] == client.spec.name
        sandbox.inject("503", route="/l2cache/", count=100)
        broken = client.status()
        assert broken.index[~broken["ok"]].tolist() == ["l2cache"]
        assert broken.loc["l2cache", "error"] == "ServiceUnavailableError"
        url, spec = sandbox.url, client.spec
    gone = type(client)(spec, server_address=url, retries=0, timeout=2).status()
    assert not gone.loc["server", "ok"]
    assert gone.loc["tables", "ok"] is pd.NA
    assert "not tried" in gone.loc["tables", "message"]
