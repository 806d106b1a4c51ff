//! What a run leaves behind for readers: history, results, report.
//!
//! ```text
//!  History ──┬───────────────────────────────▶ history.edn    for Knossos and Elle
//!            ├─▶ availability ─┐
//!  Findings ─┴─────────────────┴─▶ Results ──▶ results.json   for programs
//!                                     └──────▶ report.html    for people: one page, no network
//!  Results of many runs ──▶ Scoreboard ──────▶ terminal, Markdown, HTML, JSON
//! ```
//!
//! `history.jsonl` is written by the [`Recorder`](crate::history::jsonl::Recorder) while the run
//! goes on; everything here can be made again from it and the findings.

pub mod availability;
pub mod compare;
pub mod errors;
pub mod expected;
pub mod leadership;
mod page;
pub mod progress;
pub mod report;
pub mod results;
pub mod scoreboard;
mod span;
pub mod story;
pub mod summary;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

pub use results::{Results, Run};

use crate::history::{History, edn};

/// Writes `history.edn`, `results.json` and `report.html` into a directory that exists, over those
/// that are there.
///
/// # Errors
///
/// A file cannot be written.
pub fn write_all(dir: &Path, history: &History, results: &Results) -> io::Result<()> {
    write_edn(history, &dir.join("history.edn"))?;
    results.write(&dir.join("results.json"))?;
    fs::write(dir.join("report.html"), report::render(history, results))
}

/// Writes a history in Jepsen's form, over the file that is there.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_edn(history: &History, file: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    edn::write(history, &mut out)?;
    out.flush()
}
