import pytest
from pydantic import ValidationError

from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile


def profile(**fields):
    """A searched profile, with what the test is about."""
    base = {
        "knobs": Knobs(drafter="dflash", draft_length=8),
        "platform": "0123456789ab",
        "workload": "greedy.balanced.low",
        "origin": Origin.SEARCH,
    }
    return Profile(**(base | fields))


def test_the_id_is_the_content():
    """The same knobs for the same platform and class are the same profile."""
    again = profile(origin=Origin.IMPORT, evidence=Evidence(gain=0.4), created_at=9.0)

    assert profile().id == again.id


@pytest.mark.parametrize(
    "fields",
    [
        {"knobs": Knobs(drafter="dflash", draft_length=9)},
        {"platform": "ba9876543210"},
        {"workload": "greedy.balanced.mid"},
    ],
)
def test_other_content_has_another_id(fields):
    """Knobs, platform and class each make another profile."""
    assert profile().id != profile(**fields).id


def test_the_id_is_a_stable_name():
    """Ids are in people's pins and files: the rule that makes them may not change."""
    assert "3a761ab42320" == profile().id


def test_json_keeps_everything():
    """An exported profile comes back equal."""
    evidence = Evidence(tok_s=578.0, gain=1.5, gain_low=1.4, gain_high=1.6, sentence="Faster.")
    exported = profile(evidence=evidence)

    assert exported == Profile.model_validate_json(exported.model_dump_json())


def test_a_profile_never_changes():
    """A profile is a finding, and findings are not edited."""
    found = profile()
    with pytest.raises(ValidationError):
        found.workload = "any"
    with pytest.raises(ValidationError):
        profile(draft_length=3)
