//! The Holdfast node as a library: the binary and the tests are built on it.
