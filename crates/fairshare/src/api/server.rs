//! The server: which path leads where, and what all handlers share.

use crate::api::door::{Door, guard};
use crate::api::events::EventLog;
use crate::api::problem::Problem;
use crate::api::{chain, circuits, downloads, metrics, node, overview, page, tokens, trust};
use crate::face::{Down, Face};
use crate::failure::{Failure, Outcome};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use fairshare_node::{Command, Reply};
use serde::Deserialize;
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A .torrent of 64 MiB in hex, and a little around it.
const BODY_MAX: usize = 130 << 20;
/// What the framework says about a request that it cannot take apart is one sentence.
const REJECTION_MAX: usize = 4096;

/// What all handlers share.
pub(crate) struct Api {
    /// What the page is about.
    pub(crate) title: String,
    /// The nodes: one, or the eight of the demo.
    pub(crate) faces: Vec<Arc<Face>>,
    /// What happened.
    pub(crate) log: EventLog,
    /// Where downloads go unless another folder is named.
    pub(crate) downloads: PathBuf,
    /// Every setting with its source, as the API shows it.
    pub(crate) config: Json,
}

/// Which node a request is for; the first one if none is named.
#[derive(Debug, Deserialize)]
pub(crate) struct Which {
    node: Option<String>,
}

impl Api {
    /// The node that a request names.
    pub(crate) fn face(&self, which: &Which) -> Result<&Arc<Face>, Problem> {
        let found = match &which.node {
            None => self.faces.first(),
            Some(name) => self.faces.iter().find(|face| face.name == *name),
        };
        found.ok_or_else(|| Problem::not_found("no node has this name"))
    }

    /// Asks the node that a request names.
    pub(crate) async fn ask(&self, which: &Which, command: Command) -> Result<Reply, Problem> {
        self.face(which)?.ask(command).await.map_err(Problem::from)
    }
}

impl From<Down> for Problem {
    fn from(_: Down) -> Self {
        Self::stopped()
    }
}

/// A node answers every command with the reply that its documentation names.
pub(crate) fn unexpected() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "reply", "the node gave another reply than it must")
}

/// A server that is bound and will answer as soon as [`serve`](Self::serve) runs.
pub(crate) struct Server {
    listener: TcpListener,
    door: Arc<Door>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Binds the address.
    pub(crate) async fn bind(address: SocketAddr, token: &str) -> Outcome<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| bind_failure(address, &error))?;
        let address = listener.local_addr().map_err(|error| bind_failure(address, &error))?;
        Ok(Self { listener, door: Arc::new(Door::new(token.to_owned(), address)), address })
    }

    /// The address to open in a browser for the first time.
    pub(crate) fn entry(&self) -> String {
        self.door.entry()
    }

    /// Answers until the runtime ends.
    pub(crate) fn serve(self, api: Arc<Api>) -> tokio::task::JoinHandle<()> {
        let router = router(api, self.door);
        tokio::spawn(async move {
            // The listener of a loopback address does not fail while the process lives; if it does, clients see it.
            let _ = axum::serve(self.listener, router).await;
        })
    }
}

fn bind_failure(address: SocketAddr, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        return Failure::failed(
            "port-in-use",
            format!("port {} of {} is in use", address.port(), address.ip()),
        )
        .hint("stop the other program, or choose another port with --api IP:PORT; port 0 picks one");
    }
    Failure::failed("listen", format!("cannot serve the API on {address}: {error}"))
}

fn router(api: Arc<Api>, door: Arc<Door>) -> Router {
    let v1 = Router::new()
        .route("/node", get(node::show).patch(node::change))
        .route("/nodes", get(node::list))
        .route("/config", get(node::config))
        .route("/peers", get(node::peers).post(node::add_peer))
        .route("/connections", get(node::connections))
        .route("/downloads", get(downloads::list).post(downloads::add))
        .route("/downloads/{hash}", get(downloads::show).delete(downloads::remove))
        .route("/downloads/{hash}/pause", post(downloads::pause))
        .route("/downloads/{hash}/resume", post(downloads::resume))
        .route("/tokens", get(tokens::balance))
        .route("/tokens/payouts", get(tokens::payouts))
        .route("/tokens/history", get(tokens::history))
        .route("/chain/proofs", get(chain::proofs))
        .route("/chain/recent", get(chain::recent))
        .route("/chain/proposals", post(chain::propose))
        .route("/chain/{key}", get(chain::show))
        .route("/chain/{key}/verify", get(chain::verify))
        .route("/chain/{key}/{number}/linked", get(chain::linked))
        .route("/circuits", get(circuits::list).post(circuits::build))
        .route("/circuits/{circuit}", delete(circuits::close))
        .route("/circuits/groups/{group}", delete(circuits::close_group))
        .route("/circuits/groups/{group}/test", post(circuits::test))
        .route("/relay", get(circuits::relay).patch(circuits::set_relay))
        .route("/trust", get(trust::list))
        .route("/trust/{key}", get(trust::explain))
        .route("/overview", get(overview::show))
        .route("/events", get(events));
    page::routes()
        .nest("/api/v1", v1)
        .route("/metrics", get(metrics::show))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(node::ready))
        .fallback(|| async { Problem::not_found("no such path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path does not take this method")
        })
        .layer(middleware::map_response(as_problem))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(door, guard))
        .with_state(api)
}

/// A query or path that has the wrong form is told like every other mistake, not in the framework's plain words.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !status.is_client_error() || !kind.is_some_and(|kind| kind.starts_with("text/plain")) {
        return response;
    }
    let text = to_bytes(response.into_body(), REJECTION_MAX).await.unwrap_or_default();
    Problem::new(status, "request", String::from_utf8_lossy(&text)).into_response()
}

#[derive(Debug, Deserialize)]
struct Since {
    after: Option<u64>,
    kind: Option<String>,
}

/// The event stream: from the event after the last one the client saw, or from the beginning of the ring.
async fn events(
    State(api): State<Arc<Api>>,
    Query(since): Query<Since>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    api.log.stream(last.or(since.after).unwrap_or(0), since.kind)
}
