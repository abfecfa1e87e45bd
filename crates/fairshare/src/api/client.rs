//! The command line's side of the API: blocking calls, and problems turned into failures.

use crate::cli;
use crate::failure::{Exit, Failure, Outcome};
use crate::folder::Folder;
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::time::Duration;

/// A local node answers in milliseconds; a proposal waits for the disk.
const TIMEOUT: Duration = Duration::from_secs(30);
/// More than the longest list the API gives.
const ANSWER_MAX: u64 = 64 << 20;

/// Where a node's API is, and the secret that opens it.
#[derive(Clone)]
pub(crate) struct Client {
    base: String,
    token: String,
    agent: ureq::Agent,
}

impl Client {
    /// The API at a base address such as `http://127.0.0.1:8420`.
    pub(crate) fn new(base: &str, token: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        // A proxy of the environment is for the world, not for this machine.
        let agent = config.proxy(None).build().into();
        Self { base: base.trim_end_matches('/').to_owned(), token: token.to_owned(), agent }
    }

    /// The API of a node of this process.
    pub(crate) fn at(address: SocketAddr, token: &str) -> Self {
        Self::new(&format!("http://{address}"), token)
    }

    /// The running node that the options name; an error if there is none.
    pub(crate) fn find(options: &cli::Client) -> Outcome<Self> {
        if let (Some(url), Some(file)) = (&options.url, &options.token_file) {
            let token = std::fs::read_to_string(file).map_err(|error| Failure::io(file, &error))?;
            return Ok(Self::new(url, token.trim()));
        }
        let folder = Folder::find(options.data.clone())?;
        Self::running(&folder)?.ok_or_else(|| {
            Failure::failed("no-node", format!("no node runs on {}", folder.path().display()))
                .hint(format!("start one: fairshare run --data {}", folder.path().display()))
        })
    }

    /// The node that runs on a data folder, if one answers.
    pub(crate) fn running(folder: &Folder) -> Outcome<Option<Self>> {
        let Some(address) = folder.api_address() else { return Ok(None) };
        let file = folder.token();
        let token = std::fs::read_to_string(&file).map_err(|error| Failure::io(&file, &error))?;
        let client = Self::at(address, token.trim());
        // The file outlives a node that was killed: only an answer counts.
        Ok(client.get("/api/v1/node").is_ok().then_some(client))
    }

    pub(crate) fn get(&self, path: &str) -> Outcome<Json> {
        self.read(self.agent.get(self.url(path)).header("authorization", self.bearer()).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Json) -> Outcome<Json> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        self.read(request.content_type("application/json").send(body.to_string()))
    }

    pub(crate) fn patch(&self, path: &str, body: &Json) -> Outcome<Json> {
        let request = self.agent.patch(self.url(path)).header("authorization", self.bearer());
        self.read(request.content_type("application/json").send(body.to_string()))
    }

    pub(crate) fn delete(&self, path: &str) -> Outcome<Json> {
        self.read(self.agent.delete(self.url(path)).header("authorization", self.bearer()).call())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn read(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Outcome<Json> {
        let unreachable = |error: ureq::Error| {
            Failure::failed("unreachable", format!("the node at {} does not answer: {error}", self.base))
                .hint("check that the node runs and that the address is right")
        };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string().map_err(unreachable)?;
        let json: Json = match serde_json::from_str(&text) {
            Ok(json) => json,
            Err(_) if status.is_success() && text.is_empty() => Json::Null,
            Err(_) => return Err(Failure::failed("answer", format!("{} is no fairshare API", self.base))),
        };
        if status.is_success() { Ok(json) } else { Err(failure_of(status.as_u16(), &json)) }
    }
}

/// The failure that a problem document tells.
fn failure_of(status: u16, problem: &Json) -> Failure {
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let exit = match status {
        400 | 422 => Exit::BadUse,
        _ if text("code") == "refused" => Exit::Refused,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, text("code"), text("detail"));
    match problem["hint"].as_str() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_problem_keeps_its_words_and_gets_an_exit_code() {
        let failure = failure_of(400, &json!({"code": "key", "detail": "no key", "hint": "look again"}));
        assert_eq!((failure.exit, failure.code.as_ref()), (Exit::BadUse, "key"));
        assert_eq!(failure.to_string(), "error: no key\n  try: look again");
        assert_eq!(failure_of(409, &json!({"code": "unknown-peer"})).exit, Exit::Failed);
        assert_eq!(failure_of(409, &json!({"code": "refused"})).exit, Exit::Refused);
    }

    #[test]
    fn without_a_node_the_failure_says_how_to_start_one() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let options =
            cli::Client { data: Some(dir.path().to_owned()), url: None, token_file: None, json: false };
        let Err(failure) = Client::find(&options) else { panic!("nobody runs there") };
        assert!(failure.hint.is_some_and(|hint| hint.contains("fairshare run")));
    }
}
