//! Words for who sits at the terminal. They must not decide over a run: a terminal that was closed, or
//! a reader that has gone, is no reason to leave a cluster broken, as the panic of `println!` would.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// A line on standard error: what goes on, and what went wrong.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line on standard output: what was asked for.
pub fn print(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
