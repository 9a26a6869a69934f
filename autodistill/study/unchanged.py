"""Check that the data and the teachers of a study are still those that it was run on."""

from collections.abc import Callable, Collection, Mapping

from autodistill import teachers as sources
from autodistill.data import Data
from autodistill.errors import DataError, TeacherError
from autodistill.records import TRAINED_HERE, StudyRecord


def check_unchanged(record: StudyRecord, *, data: Data, teachers: Mapping[str, str]) -> None:
    """Compare data and fingerprints of given teachers, as they are now, with those of a study.

    Raises:
        DataError: The data have changed.
        TeacherError: A teacher has changed.
    """
    if data.fingerprint != record.data.fingerprint:
        if data.name != record.data.name:
            raise DataError(
                f"{data.name}: study {record.name!r} was run on other data, {record.data.name}",
                f"name with --data where {record.data.name} is now, or leave --data out",
            )
        raise DataError(
            f"{record.data.name}: the images or labels are not those that study {record.name!r} was run on",
            f"put the data back as they were, or run the study again: {record.command}",
        )
    known = {teacher.name: teacher.fingerprint for teacher in record.teachers}
    for name, fingerprint in teachers.items():
        if known.get(name, fingerprint) != fingerprint:
            raise TeacherError(
                f"teacher {name}: its network, weights or preprocessing are not those that study {record.name!r} was "
                "run on",
                f"put its files back as they were, or run the study again under another name: {record.command}",
            )


def fingerprints_now(
    record: StudyRecord, data: Data, *, names: Collection[str], say: Callable[[str], object]
) -> dict[str, str]:
    """Load given teachers of a study again, without downloads; return their fingerprints by name.

    Data and space determine the teachers that autodistill trains, which are left out. `say` is called with a warning
    about each teacher that cannot be loaded any more.
    """
    found = {}
    for teacher in record.teachers:
        if teacher.name in names and not teacher.uri.startswith(TRAINED_HERE):
            try:
                loaded = sources.load(teacher.uri, data=data, offline=True, name=teacher.name)
            except TeacherError as error:
                say(f"teacher {teacher.name} cannot be compared with the one of the study: {error.message}")
            else:
                found[teacher.name] = loaded.fingerprint
    return found
