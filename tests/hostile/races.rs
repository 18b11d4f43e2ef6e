//! Two runs at once, and paths that another process changes while a run uses them.
