"""Another vLLM below the same state directory."""

from stage import staged

KEPT = "what was found before is kept, and not applied here"


def installs(stage, version):
    """Let the engine's environment have this version of vLLM."""
    for old in (stage.folder / "site").glob("vllm-*.dist-info"):
        (old / "METADATA").unlink()
        old.rmdir()
    info = stage.folder / "site" / f"vllm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def known(stage):
    """The digest of the platform, and the ids of its profiles."""
    _, found = stage.ask("GET", "/v1/profiles")
    return found["platform"], {profile["id"]: profile["platform"] for profile in found["profiles"]}


def test_profiles_of_another_vllm_are_not_applied():
    """F17: chosen and pinned under one version, refused in words under the next, back with it."""
    with staged() as stage:
        installs(stage, "0.31.0")
        stage.start()
        old = stage.profile(3)
        stage.use(old)
        stage.settled("ngram k=3")
        assert 200 == stage.ask("POST", "/v1/pins", {"application": "app", "profile": old})[0]
        before, _ = known(stage)
        assert 0 == stage.stop()

        installs(stage, "0.32.0")
        stage.start()
        after, profiles = known(stage)
        status, refused = stage.ask("POST", "/v1/use", {"profile": old})

        assert "off" == stage.settled()["profile"]["label"]
        assert before != after
        assert before == profiles[old]
        assert 409 == status
        assert "was made on another platform" in refused["error"]["message"]
        assert f"platform: vLLM 0.32.0 instead of 0.31.0: {KEPT}" in stage.events()
        assert stage.complete("served", 8).right("served", 8)
        stage.settled("off")
        assert 0 == stage.stop()

        installs(stage, "0.31.0")
        stage.start()
        assert before == known(stage)[0]
        assert 1 == len([e for e in stage.events() if e.startswith("platform:")])
        stage.use(old)
        stage.settled("ngram k=3")
