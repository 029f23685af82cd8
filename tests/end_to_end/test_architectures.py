"""Recipe ``musclelora`` on models that are no BERT, from raw data to an ordinary model folder."""

from __future__ import annotations

import pytest

from tiny import MAX_LENGTH, make_corpus, save_tiny_model

pytestmark = pytest.mark.slow
ROWS = 120


@pytest.mark.parametrize("architecture", ["roberta", "gpt2", "llama"])
def test_musclelora_makes_an_ordinary_model(project_run, tmp_path, architecture) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = save_tiny_model(tmp_path / f"tiny-{architecture}", architecture)
    changes = {"model.name": base, "ingest.max_rows": ROWS}
    run = project_run(tmp_path, "--pipelines", "musclelora", **changes)
    assert run.returncode == 0, run.stderr
    assert run.metrics["cost"]["clean_rows"] == 96
    assert run.metrics["purified"]["clean_accuracy_n"] == ROWS
    assert run.report.is_file()

    (folder,) = {path.parent for path in run.data_dir.rglob("purified/**/model.safetensors")}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert model.config.model_type == architecture
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys"))
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None
    texts = ["film", *make_corpus(n_train=6, n_dev=0, n_test=0)["text"], "the film " * 12]
    cut = {"truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
    with torch.inference_mode():
        together = model(**tokenizer(texts, padding=True, **cut)).logits
        alone = torch.cat([model(**tokenizer(text, **cut)).logits for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert len(together.unique(dim=0)) == len(texts)  # none of them is read off the padding
