"""Settings from environment variables."""

import pytest

from osmnet.serving.settings import Settings


def test_settings_come_from_the_environment():
    found = Settings.from_environment({"OSMNET_MAX_SECONDS": "30", "OSMNET_MODEL": "someone/weights", "OTHER": "x"})
    assert found == Settings(max_seconds=30, model="someone/weights")
    assert Settings.from_environment({"OSMNET_MAX_MB": " "}) == Settings()


@pytest.mark.parametrize("wrong", ["0", "-3", "many", "1.5"])
def test_a_number_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="OSMNET_MAX_MB must be a whole number above 0"):
        Settings.from_environment({"OSMNET_MAX_MB": wrong})


def test_the_proxy_of_a_space_is_known():
    assert Settings.from_environment({"SPACE_ID": "someone/page"}).proxies == 1
    assert Settings.from_environment({"SPACE_ID": "someone/page", "OSMNET_PROXIES": "2"}).proxies == 2
    assert Settings.from_environment({}).proxies == 0
