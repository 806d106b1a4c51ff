//! `holdfastctl`: the command line tool of Holdfast.
//!
//! Reads and writes keys, shows the cluster, generates load. It is a thin skin over the library of
//! this crate; only `bench` goes past it, to measure the server and not the client's failover.
//!
//! ```text
//!  arguments ─▶ args ─▶ commands/* ─▶ holdfast_client ─▶ answer ─▶ output (plain, table, JSON)
//!                 ▲          │                                        ▲
//!       encoding (hex, base64, escapes) ──────────────────────────────┘      exit: the exit code
//! ```

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser};
use holdfast_client::Client;

mod args;
mod bench;
mod commands;
mod encoding;
mod exit;
mod output;
mod txn_json;
mod txn_text;

use args::{Args, Command, Global};
use commands::debug::DebugCommand;
use exit::{Code, Failure};
use output::Screen;

/// Small, short-lived allocations on many threads are what a request is made of.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let code = match run(args) {
        Ok(code) => code,
        Err(failure) if failure.is_broken_pipe() => Code::Ok,
        Err(failure) => {
            eprintln!("holdfastctl: {failure:#}");
            failure.code()
        }
    };
    code.into()
}

fn run(args: Args) -> Result<Code, Failure> {
    if let Command::Completions { shell } = args.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), "holdfastctl", &mut script);
        std::io::stdout().write_all(&script)?;
        return Ok(Code::Ok);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Bench(bench) = &args.command {
        runtime.worker_threads(bench::threads(bench));
    }
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(dispatch(args))
}

async fn dispatch(args: Args) -> Result<Code, Failure> {
    let Args { global, command } = args;
    let mut screen = Screen::new(global.output, global.encoding());
    let code = match command {
        Command::Put(put) => commands::kv::put(&connect(&global).await?, &put, &mut screen).await,
        Command::Get(get) => commands::kv::get(&connect(&global).await?, &get, &mut screen).await,
        Command::Del(del) => commands::kv::del(&connect(&global).await?, &del, &mut screen).await,
        Command::Txn(txn) => {
            // Read first: a mistake in it must not depend on the cluster.
            let request = commands::txn::read(&txn, &screen)?;
            commands::txn::run(&connect(&global).await?, request, &mut screen).await
        }
        Command::Compact(compact) => {
            commands::kv::compact(&connect(&global).await?, &compact, &mut screen).await
        }
        Command::Status(status) => {
            let client = connect(&global).await?;
            commands::cluster::status(&client, &global.endpoints, &status, &mut screen).await
        }
        Command::Members => commands::cluster::members(&connect(&global).await?, &mut screen).await,
        Command::MoveLeader(target) => {
            commands::cluster::move_leader(&connect(&global).await?, &target, &mut screen).await
        }
        Command::Keyspace(command) => {
            commands::keyspace::run(&connect(&global).await?, command, &mut screen).await
        }
        Command::Placement(command) => {
            commands::placement::run(&connect(&global).await?, command, &mut screen).await
        }
        Command::Debug(DebugCommand::Groups(groups)) => {
            commands::debug::groups(&connect(&global).await?, groups, &mut screen).await
        }
        Command::Bench(bench) => bench::run(&global, &bench, &mut screen).await,
        Command::Completions { .. } => unreachable!("handled before the runtime starts"),
    }?;
    screen.flush()?;
    Ok(code)
}

async fn connect(global: &Global) -> Result<Client, Failure> {
    let mut builder = Client::builder()
        .endpoints(&global.endpoints)
        .timeout(global.timeout)
        .connect_timeout(global.timeout);
    if let Some(zone) = &global.zone {
        builder = builder.prefer_zone(zone);
    }
    if let Some(keyspace) = &global.keyspace {
        builder = builder.keyspace(keyspace);
    }
    Ok(builder.connect().await?)
}
