"""What travels between coordinator and workers arrives as it was sent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import epoch_of, request

from autodistill import errors
from autodistill.errors import AutodistillError, StoreError
from autodistill.queue.messages import CheckTask, ProfileTask
from autodistill.queue.wire import from_wire, to_wire
from autodistill.records import EpochEvent, Note

words = st.text(max_size=20)


@settings(deadline=None)
@given(words, words, st.sampled_from([kind for kind in vars(errors).values() if isinstance(kind, type)]))
def test_errors_travel_whole(message, hint, kind):
    if not issubclass(kind, AutodistillError):
        return
    found = from_wire(to_wire(kind(message, hint)))
    assert (type(found), found.message, found.hint) == (kind, message, hint)


@settings(deadline=None)
@given(words, st.floats())
def test_records_travel_whole(text, number):
    same = (CheckTask(name=text), ProfileTask(name=text), request(text), Note(text=text, warning=True))
    for sent in same:
        assert from_wire(to_wire(sent)) == sent
        assert type(from_wire(to_wire(sent))) is type(sent)
    epoch = epoch_of(request("r"), 1).model_copy(update={"train_loss": number})
    sent = EpochEvent(run=text, epochs=1, record=epoch, wall_s=number)
    assert repr(from_wire(to_wire(sent))) == repr(sent), "not a number and infinity too"


@pytest.mark.parametrize("text", ["", "Nobody {}", 'CheckTask {"name": 1}', "CheckTask [", "Setup {}"])
def test_what_another_version_sent_is_refused(text):
    with pytest.raises(StoreError, match="does not know"):
        from_wire(text)
