//! What a run leaves behind for readers: history, results, report.
