"""The verbs that work on a run's folder: replay, rollback, audit."""
