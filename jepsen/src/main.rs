//! The program `holdfast-jepsen`.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_jepsen::cli::main()
}
