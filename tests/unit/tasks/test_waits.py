"""No message waits for as long as the broker's visibility timeout, which would deliver it again."""

import pytest
from annotated_types import Ge

from config.settings import WorkerSettings
from tasks.api.retry import MAX_WAIT_S
from tasks.retry import Deferred


@pytest.mark.parametrize("asked_s", [0.5, 60, 901, 86_400, 1e12])
def test_a_countdown_of_any_length_is_at_most_half_the_visibility_timeout(asked_s: float) -> None:
    [minimum] = [
        rule.ge
        for rule in WorkerSettings.model_fields["visibility_timeout_s"].metadata
        if isinstance(rule, Ge)
    ]
    countdown_s = Deferred("a test", asked_s).countdown_s
    assert countdown_s == min(asked_s, MAX_WAIT_S)
    assert 2 * countdown_s <= float(str(minimum))
