"""Progress is shown and changes nothing."""

from __future__ import annotations

import logging

from backdoor_pipeline.modelling.progress import track


def test_yields_every_item_in_order() -> None:
    assert list(track([3, 1, 2], "count")) == [3, 1, 2]


def test_a_log_says_how_far_it_is(monkeypatch, caplog) -> None:
    monkeypatch.setattr("backdoor_pipeline.modelling.progress.SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level(logging.INFO):
        list(track([1, 2, 3, 4], "count"))
    assert "count: 2 of 4, about 0 s left" in caplog.text


def test_a_terminal_gets_a_bar(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(track(range(3), "count")) == [0, 1, 2]
    assert "count" in capsys.readouterr().err
