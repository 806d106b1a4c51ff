//! The Holdfast node.
fn main() {}
