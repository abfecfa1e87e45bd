//! The HTTP API of a real node: who is let in, what errors look like, what the page is served with.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{Node, SOON};

/// One answer: status, head and body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{}: {error}", self.body))
    }

    /// The stable code of a problem document.
    fn code(&self) -> String {
        assert!(self.head.contains("application/problem+json"), "{}", self.head);
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert!(json["detail"].is_string() && json["title"].is_string());
        json["code"].as_str().expect("every problem has a code").to_owned()
    }
}

struct World {
    _folder: tempfile::TempDir,
    node: Node,
    api: String,
    token: String,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let node = Node::start(&folder.path().join("data"), &[]);
        let told: Value =
            serde_json::from_slice(&fs::read(node.data.join("api.json")).expect("written")).expect("JSON");
        let token = fs::read_to_string(node.data.join("api.token")).expect("written");
        Self { _folder: folder, node, api: told["api"].as_str().expect("an address").to_owned(), token }
    }

    /// A request with exactly these headers beside `Host`, if none is among them.
    fn raw(&self, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.api).expect("the API listens");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        let mut text = format!("{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text.push_str(&format!("Host: {}\r\n", self.api));
        }
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        write!(stream, "{text}\r\n{body}").expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.raw(&format!("GET {path}"), &[("Authorization", &format!("Bearer {}", self.token))], "")
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        self.raw(&format!("{method} {path}"), &headers, &body.to_string())
    }
}

#[test]
fn only_the_token_opens_the_api() {
    let world = World::new();
    assert_eq!(world.raw("GET /api/v1/node", &[], "").code(), "token");
    assert_eq!(world.raw("GET /api/v1/node", &[("Authorization", "Bearer 00")], "").status, 401);
    assert_eq!(world.raw("GET /metrics", &[], "").status, 401);
    let node = world.get("/api/v1/node");
    assert_eq!((node.status, node.json()["public_key"].as_str()), (200, Some(world.node.key.as_str())));
    let other = [("Host", "evil.example"), ("Authorization", "Bearer x")];
    assert_eq!(world.raw("GET /api/v1/node", &other, "").code(), "host");
    let origin = [("Origin", "http://evil.example")];
    assert_eq!(world.raw("GET /", &origin, "").code(), "origin");
}

#[test]
fn the_page_exchanges_the_token_for_a_cookie() {
    let world = World::new();
    let first = world.raw(&format!("GET /?token={}", world.token), &[], "");
    assert_eq!(first.status, 303);
    let cookie = first.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    // The head was lower-cased for comparing; the token is lower-case hex anyway.
    let cookie = cookie.split(';').next().expect("a value").to_owned();
    let page = world.raw("GET /", &[("Cookie", &cookie)], "");
    assert!(page.status == 200 && page.body.contains("<script type=\"module\" src=\"/app.js\">"));
    assert!(page.head.contains("content-security-policy: default-src 'self'"), "{}", page.head);
    assert_eq!(world.raw("GET /app.js", &[], "").status, 200);
    assert_eq!(world.raw("GET /api/v1/overview", &[("Cookie", &cookie)], "").status, 200);
    let write = [("Cookie", cookie.as_str()), ("Content-Type", "application/json")];
    let body = json!({ "uploading": false }).to_string();
    assert_eq!(world.raw("PATCH /api/v1/node", &write, &body).code(), "write-header");
    let write = [("Cookie", cookie.as_str()), ("Content-Type", "application/json"), ("X-Fairshare", "1")];
    assert_eq!(world.raw("PATCH /api/v1/node", &write, &body).json()["uploading"], false);
}

#[test]
fn every_list_answers_and_every_mistake_is_a_problem() {
    let world = World::new();
    for path in [
        "/api/v1/nodes",
        "/api/v1/config",
        "/api/v1/peers",
        "/api/v1/connections",
        "/api/v1/downloads",
        "/api/v1/tokens",
        "/api/v1/tokens/history",
        "/api/v1/chain/me",
        "/api/v1/chain/recent",
        "/api/v1/chain/proofs",
        "/api/v1/chain/me/verify",
        "/api/v1/chain/me/1/linked",
        "/api/v1/overview",
    ] {
        let answer = world.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json();
    }
    assert_eq!(world.get("/healthz").body, "ok\n");
    assert_eq!(world.get("/readyz").status, 200);
    assert!(world.get("/metrics").body.contains("fairshare_chain_blocks{node=\"\"} 0"));

    assert_eq!(world.get("/no/such/path").code(), "not-found");
    assert_eq!(world.get("/api/v1/downloads/zz").code(), "hash");
    assert_eq!(world.get(&format!("/api/v1/downloads/{}", "00".repeat(20))).code(), "not-found");
    assert_eq!(world.get("/api/v1/chain/zz").code(), "key");
    assert_eq!(world.get("/api/v1/node?node=nobody").code(), "not-found");
    assert_eq!(world.get("/api/v1/tokens/history?limit=x").code(), "request");
    assert_eq!(world.get("/api/v1/chain/me/x/linked").code(), "request");
    assert_eq!(world.send("DELETE", "/api/v1/node", &json!({})).code(), "method");
    for body in [
        json!({}),
        json!({ "magnet": "x" }),
        json!({ "torrent": "zz" }),
        json!({ "torrent": "00" }),
        json!([]),
    ] {
        let answer = world.send("POST", "/api/v1/downloads", &body);
        assert!((400..=422).contains(&answer.status), "{body}: {}", answer.body);
        answer.code();
    }
    for body in [json!({}), json!({ "to": "me", "type": "t", "transaction": "00" })] {
        answer_is_refused(&world.send("POST", "/api/v1/chain/proposals", &body));
    }
    assert_eq!(world.get("/api/v1/downloads").json(), json!([]));
}

fn answer_is_refused(answer: &Answer) {
    assert_eq!(answer.status, 400, "{}", answer.body);
    answer.code();
}

#[test]
fn a_download_can_be_added_looked_at_paused_and_removed() {
    let world = World::new();
    let hash = "aabbccddeeff00112233445566778899aabbccdd";
    let body = json!({ "magnet": format!("magnet:?xt=urn:btih:{hash}&dn=film") });
    assert_eq!(world.send("POST", "/api/v1/downloads", &body).status, 201);
    assert_eq!(world.send("POST", "/api/v1/downloads", &body).status, 200, "a second time is the same");
    let path = format!("/api/v1/downloads/{hash}");
    assert_eq!(world.get(&path).json()["state"], "metadata");
    assert_eq!(world.send("POST", &format!("{path}/pause"), &Value::Null).json()["state"], "paused");
    assert_eq!(world.send("POST", &format!("{path}/resume"), &Value::Null).json()["state"], "metadata");
    assert_eq!(world.send("DELETE", &path, &Value::Null).status, 200);
    assert_eq!(world.get(&path).status, 404);
}

#[test]
fn events_come_with_ids_and_can_be_taken_up_again() {
    let world = World::new();
    let hash = "aabbccddeeff00112233445566778899aabbccdd";
    let file = world.node.data.join("film.bin");
    support::write_random_file(&file, 100_000, 3);
    let torrent = world.node.data.join("film.torrent");
    let mut create = support::fairshare();
    assert!(create.arg("create").arg(&file).arg("--out").arg(&torrent).status().expect("started").success());
    let folder = world.node.data.display().to_string();
    world.node.command(&["seed", &torrent.display().to_string(), "--from", &folder]);
    let mut stream = TcpStream::connect(&world.api).expect("the API listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let request = format!(
        "GET /api/v1/events?kind=download.checked HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        world.api, world.token
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    while !text.contains("download.checked") {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).expect("an event of the ring");
        assert!(read > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&part[..read]));
    }
    assert!(text.contains("id: ") || text.contains("id:"), "{text}");
    assert!(text.contains("text/event-stream") && !text.contains(hash));
}
