//! The `holdfast` program: `start` runs a node, `dev` runs three zones on this machine.

use std::io::Write;
use std::process::ExitCode;

use holdfast_server::config::{self, Config, Given};
use holdfast_server::exit::{Cause, EXIT_FAILED, EXIT_REFUSED, exit_code};
use holdfast_server::{Node, NodeFailure, StartError};

use cli::Invocation;
use stop::StopWatch;

mod cli;
mod dev;
mod logging;
mod stop;

/// Small, short-lived allocations on many threads are what a request is made of.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    without_huge_pages();
    let invocation = match cli::parse(std::env::args_os(), cli::environment()) {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    match invocation {
        Invocation::Start { given, check } => start(&given, check),
        Invocation::Dev(args) => match run(None, dev::run(args)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(EXIT_FAILED),
            Err(error) => fail(EXIT_FAILED, format!("{error:#}")),
        },
        Invocation::Completions(shell) => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "holdfast", &mut text);
            print(&text)
        }
    }
}

/// Keeps memory that is only reserved from being resident. Each group reserves about two megabytes and
/// uses a tenth of it, and the allocator asks the system for huge pages, of which the first byte that is
/// used makes two megabytes resident. Hundreds of groups would take gigabytes.
fn without_huge_pages() {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes numbers and changes a flag of this process.
    let refused = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    // A kernel without the flag has no huge pages of this kind either.
    #[cfg(target_os = "linux")]
    let _ = refused;
}

fn start(given: &Given, check: bool) -> ExitCode {
    #[cfg(feature = "planted-bugs")]
    let planted = match holdfast_server::planted::plant(&given.environment) {
        Ok(planted) => planted,
        Err(error) => return fail(EXIT_REFUSED, error),
    };
    let config = match config::load(given) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_REFUSED, error),
    };
    if check {
        for warning in config.warnings() {
            let _ = writeln!(std::io::stderr(), "warning: {warning}");
        }
        return print(config.to_toml().as_bytes());
    }
    if let Err(error) = logging::init(&config.log) {
        return fail(EXIT_REFUSED, error);
    }
    #[cfg(feature = "planted-bugs")]
    if let Some(planted) = planted {
        tracing::warn!("{planted}");
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    for name in config::unknown_variables(&given.environment) {
        tracing::warn!(
            "the environment variable {name} is none of ours and changes nothing; see `holdfast start --help`"
        );
    }
    let code = match run(Some(config.node.worker_threads), serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = cause(&error);
            tracing::error!("the node stops: {}{}", chain(&error), cause.remedy());
            ExitCode::from(exit_code(cause))
        }
    };
    logging::flush();
    code
}

/// Runs a node until it is asked to stop, or until it cannot go on.
async fn serve(config: Config) -> anyhow::Result<()> {
    // Before the node starts, so that a signal during a long start is not lost.
    let mut stop = StopWatch::start()?;
    let node = Node::start(config).await?;
    let name = tokio::select! {
        name = stop.asked() => name,
        failure = node.failed() => {
            // Taking it apart would wait for the disk that failed.
            std::mem::forget(node);
            return Err(failure.into());
        }
    };
    tracing::info!("{name}: the node hands its leaderships over and stops");
    logging::groups_are_stopping();
    node.shutdown(stop.step()).await;
    tracing::info!("the node has stopped");
    Ok(())
}

/// What kind of trouble ended a node.
fn cause(error: &anyhow::Error) -> Cause {
    if let Some(failure) = error.downcast_ref::<NodeFailure>() {
        return failure.cause;
    }
    error
        .downcast_ref::<StartError>()
        .map_or(Cause::Other, StartError::cause)
}

/// An error and its causes, without those that it tells itself.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Runs a future on the main thread; what it spawns runs on so many workers, or one for each core.
fn run<T>(
    workers: Option<usize>,
    future: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        runtime.worker_threads(workers);
    }
    let runtime = runtime.enable_all().build()?;
    let outcome = runtime.block_on(future);
    // What matters was awaited; dropping the runtime would wait for whatever still reads from a disk.
    runtime.shutdown_background();
    outcome
}

fn fail(code: u8, error: impl std::fmt::Display) -> ExitCode {
    // The exit code tells it too; where standard error takes nothing, it has to do.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}

/// Writes to standard output; a reader that went away is no failure of ours.
fn print(text: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(
            EXIT_FAILED,
            format!("cannot write to standard output: {error}"),
        ),
        _ => ExitCode::SUCCESS,
    }
}
