"""What the log says of an error that stops a run: a sentence for real life, the traceback of a defect."""

import os
import signal

import pytest

from dmt_ray.pipeline.failures import log_failure
from dmt_ray.storage.files import StorageError

DEFECT = "The run stopped early, by a defect; please report it."


def raised_by(action):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        action()
    return caught.value


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
        (StorageError("s3://bucket/x", "is gone"), "s3://bucket/x: is gone."),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_fails_in_real_life_is_a_sentence(error, sentence, caplog):
    log_failure(error)
    assert [record.message for record in caplog.records] == [f"The run stopped early: {sentence}"]
    assert "Traceback" not in caplog.text


@pytest.mark.usefixtures("local_ray")
def test_errors_of_ray_are_judged_by_their_cause(caplog):
    import ray

    @ray.remote(max_retries=0)
    def act(how):
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "fail":
            raise StorageError("out", "is full")
        return 1 // 0

    log_failure(raised_by(lambda: ray.get(act.remote("fail"))))
    assert caplog.records[-1].message == "The run stopped early: out: is full."
    log_failure(raised_by(lambda: ray.get(act.remote("die"))))
    assert caplog.records[-1].message.startswith("The run stopped early: ")
    assert "\n" not in caplog.records[-1].message
    assert "Traceback" not in caplog.text
    log_failure(raised_by(lambda: ray.get(act.remote("divide"))))
    assert caplog.records[-1].message == DEFECT
    assert "ZeroDivisionError" in caplog.text


def test_a_defect_keeps_its_traceback(caplog):
    log_failure(raised_by(lambda: {}["key"]))
    assert caplog.records[-1].message == DEFECT
    assert "Traceback" in caplog.text
    assert "KeyError" in caplog.text
