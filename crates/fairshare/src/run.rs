//! `fairshare run`: a node in the foreground.

use crate::cli;
use crate::config::Layered;
use crate::failure::Outcome;
use crate::folder::Folder;
use crate::passphrase;
use crate::print;
use crate::process::Interrupt;
use crate::standing::{Setup, Standing};
use fairshare_host::{IdentityForm, identity_path};
use serde_json::json;
use std::path::Path;

pub(crate) fn run(args: &cli::Run) -> Outcome {
    let folder = Folder::find(args.data.clone())?;
    let mut flags = Vec::new();
    flags.extend(args.listen.map(|address| ("listen", address.to_string())));
    flags.extend(args.api.map(|address| ("api", address.to_string())));
    flags.extend(args.no_bootstrap.then(|| ("bootstrap", String::new())));
    let file = args.config.clone().unwrap_or_else(|| folder.config());
    let layered = Layered::load(&file, |name| std::env::var(name).ok(), &flags)?;
    if !layered.config.countersign.is_empty() {
        eprintln!(
            "warning: blocks of these types are signed without judgement: {:?}",
            layered.config.countersign
        );
    }
    let passphrase = args.passphrase_fd.map(passphrase::read).transpose()?;
    let interrupt = Interrupt::listen()?;
    let data = Some(folder.path().to_owned());
    let standing = Standing::start(Setup { data, layered, peers: args.peers.clone(), passphrase })?;
    standing.watch(&interrupt);
    //= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it
    let ready = json!({
        "event": "ready",
        "public_key": standing.public_key().to_string(),
        "listen": standing.listen().to_string(),
        "api": standing.api.to_string(),
        "token_file": standing.token_file(),
    });
    print::one(args.json, &ready, || {
        format!("node {} listens at {}\npage: {}", standing.public_key(), standing.listen(), standing.entry)
    });
    if !args.json {
        tell_form(&standing, folder.path());
    }
    interrupt.wait();
    standing.end()
}

/// Whoever can read a plain identity file is its owner, so its owner is told.
//= spec/README.md#who-decides-what-where-two-documents-touch
fn tell_form(standing: &Standing, data: &Path) {
    let file = identity_path(data);
    match standing.identity_form() {
        IdentityForm::Plain => {
            eprintln!("note: {} is not encrypted; run with --passphrase-fd N encrypts it", file.display());
        }
        IdentityForm::SealedNow => eprintln!(
            "note: {} was plain and is encrypted from now on; older copies of it are still plain",
            file.display()
        ),
        IdentityForm::Sealed => {}
    }
}
