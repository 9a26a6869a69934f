"""A copy of a study in a database: what may be tried on, before the study goes on."""

from pathlib import Path

import optuna

from autodistill.search.carrying import study_name
from autodistill.search.question import Question
from autodistill.storage import SQLITE, close_storage, holds_study, open_storage, patiently


def copy_study(question: Question, url: str, path: Path) -> bool:
    """Copy the trials of a study, however far they are, into a new SQLite file; False where there is no such study.

    Raises:
        StoreError, StudyError: the database cannot be reached.
    """
    name = study_name(question)
    if not holds_study(url, name):
        return False
    source, target = open_storage(url), open_storage(f"{SQLITE}{path}")
    try:
        trials = patiently(lambda: optuna.load_study(study_name=name, storage=source).get_trials(deepcopy=False))
        optuna.create_study(study_name=name, storage=target, direction="maximize").add_trials(trials)
    finally:
        close_storage(source)
        close_storage(target)
    return True
