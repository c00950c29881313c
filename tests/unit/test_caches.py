"""vLLM's caches."""

from service.caches import share_model_infos


def test_model_facts_are_shared_and_compile_caches_are_not(tmp_path, monkeypatch):
    """Two cache roots see the same model facts; what else is written stays in each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    first, second = tmp_path / "a", tmp_path / "b"
    for root in (first, second, first):
        share_model_infos(root)
    (first / "modelinfos" / "llama.json").write_text("{}")
    (first / "torch_compile_cache").mkdir()

    assert (second / "modelinfos" / "llama.json").read_text() == "{}"
    assert not (second / "torch_compile_cache").exists()
    assert (tmp_path / "home" / "vllm" / "modelinfos" / "llama.json").exists()


def test_a_cache_that_cannot_be_shared_costs_only_time(tmp_path, monkeypatch):
    """A home that is a file is no reason not to start."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    share_model_infos(tmp_path / "root")

    assert not (tmp_path / "root" / "modelinfos").exists()
