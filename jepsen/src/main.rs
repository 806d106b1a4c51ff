//! The command line of `holdfast-jepsen`.

fn main() {}
