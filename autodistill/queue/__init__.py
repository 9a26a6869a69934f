"""Tasks for workers that are nobody's children: claimed, kept alive and answered in the study's database.

A task is a trial of Optuna's in a study of its own (`NAME/tasks`): waiting, running, finished. It is claimed by
Optuna's compare-and-set. While it runs, its worker bumps a counter; whoever coordinates sees no change for a while by
its own clock and lets another worker have it, under the next generation number. A worker whose generation is over
writes nothing more. All that is stored is JSON.

`messages` and `terms` know no database: workers over pipes use them too.
"""
