"""Every event can be sent again, however many there are."""

from pathlib import Path

import pytest

from embedded.stripe_twin import admin
from embedded.stripe_twin.app import Twin
from embedded.stripe_twin.clock import Clock
from embedded.stripe_twin.errors import ApiError
from embedded.stripe_twin.store import Endpoint, Store


def test_all_events_are_sent_again_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MAX_REDELIVERED", 2)
    store = Store(tmp_path)
    twin = Twin(store, Clock(), lambda: None)
    with store.transaction():
        for number in range(5):
            store.put("event", {"id": f"evt_{number}", "created": 1}, {}, written=1.0)
        for number in range(2):
            store.put_endpoint(Endpoint(f"we_{number}", "http://127.0.0.1:1/", "whsec_1"))
    told, after = [], ""
    while True:
        with store.transaction():
            answer = admin.redeliver(twin, {"all": True, "after": after}, {})
        told.append(answer["queued"])
        after = answer.get("next", "")
        if not after:
            break
    assert told == [4, 4, 2]
    assert len(store.due_deliveries(twin.clock.now(), 100)) == 10
    with pytest.raises(ApiError):
        admin.redeliver(twin, {"all": True, "after": "evt_none"}, {})
    store.close()
