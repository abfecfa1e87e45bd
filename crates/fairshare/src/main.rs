//! The fairshare binary: command line, API, page, demo.

mod api;
mod bench;
mod cli;
mod commands;
mod config;
mod create;
mod demo;
mod face;
mod failure;
mod folder;
mod forms;
mod news;
mod passphrase;
mod print;
mod process;
mod run;
mod shelf;
mod show;
mod sim;
mod standing;
mod transaction;
mod wanted;

use clap::Parser as _;
use cli::{Cli, Command};
use failure::{Exit, Outcome};
use serde_json::json;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are printed by the same way; they are no mistakes.
            let code = if error.use_stderr() { Exit::BadUse as u8 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let Err(failure) = dispatch(&cli.command) else { return ExitCode::SUCCESS };
    if cli.command.wants_json() {
        let hint = &failure.hint;
        print::line(
            &json!({ "error": { "code": failure.code, "what": failure.what, "hint": hint } }).to_string(),
        );
    }
    eprintln!("{failure}");
    ExitCode::from(failure.exit as u8)
}

fn dispatch(command: &Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Create(args) => create::run(args),
        Command::Get(args) => commands::get(args),
        Command::Seed(args) => commands::seed(args),
        Command::Add(args) => commands::add(args),
        Command::List(options) => commands::list(options),
        Command::Pause(args) => commands::pause(args),
        Command::Resume(args) => commands::resume(args),
        Command::Remove(args) => commands::remove(args),
        Command::Status(options) => commands::status(options),
        Command::Tokens(command) => commands::tokens(command),
        Command::Chain(command) => commands::chain(command),
        Command::Peers(command) => commands::peers(command),
        Command::Circuits(command) => commands::circuits(command),
        Command::Relay(command) => commands::relay(command),
        Command::Trust(command) => commands::trust(command),
        Command::Config(command) => commands::config(command),
        Command::Sim(args) => sim::run(args),
        Command::BtBench(command) => bench::run(command),
    }
}
