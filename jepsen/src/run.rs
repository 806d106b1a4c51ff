//! One run: a workload against a cluster under a nemesis, and its verdict.
