//! The command line tool of Holdfast.
fn main() {}
