//! Who may come in: only programs and pages that know the token, that mean this very address, and that are not led
//! here by another page.
//!
//! A random token lies in a file that only its owner can read. Programs show it as bearer; a browser exchanges it on
//! its first visit for a cookie that scripts cannot read. `Host` is checked against DNS rebinding, `Origin` against
//! other pages, and a write by cookie needs a header that a foreign page cannot add.
//= spec/interfaces.md#2-how-the-web-ui-is-built-decision

use crate::api::problem::Problem;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use fairshare_crypto::ct_eq;
use std::net::SocketAddr;
use std::sync::Arc;

/// The header that a page of another origin cannot add without asking first.
const WRITE_HEADER: &str = "x-fairshare";
/// Everything comes from this server; no inline scripts or styles, no frames around us.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// What the door knows.
#[derive(Debug)]
pub(crate) struct Door {
    token: String,
    hosts: Vec<String>,
    cookie: String,
}

impl Door {
    /// The door of a server at this address.
    pub(crate) fn new(token: String, address: SocketAddr) -> Self {
        let port = address.port();
        let names = [address.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}")];
        // Cookies do not tell ports apart: two nodes on one machine must not overwrite each other's.
        Self { token, hosts: names.into(), cookie: format!("fairshare-{port}") }
    }

    /// The address to open in a browser for the first time.
    pub(crate) fn entry(&self) -> String {
        format!("http://{}/?token={}", self.hosts[0], self.token)
    }

    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let known = |host: &str| self.hosts.iter().any(|known| known == host);
        if !text(header::HOST).is_some_and(known) {
            return Err(forbidden("host", "the request is meant for another host"));
        }
        let own = |origin: &str| origin.strip_prefix("http://").is_some_and(known);
        if text(header::ORIGIN).is_some_and(|origin| !own(origin)) {
            return Err(forbidden("origin", "the request comes from a page of another origin"));
        }
        if is_open(path) {
            return Ok(());
        }
        if text(header::AUTHORIZATION)
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| self.is_token(token))
        {
            return Ok(());
        }
        if !text(header::COOKIE).is_some_and(|cookies| self.has_cookie(cookies)) {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "token", "the token is missing or wrong")
                .hint("send the content of api.token as Authorization: Bearer, or open the address that was printed"));
        }
        let safe = matches!(*method, Method::GET | Method::HEAD);
        if !safe && !headers.contains_key(WRITE_HEADER) {
            return Err(forbidden("write-header", "a write by cookie needs the header x-fairshare"));
        }
        Ok(())
    }

    fn has_cookie(&self, cookies: &str) -> bool {
        cookies
            .split(';')
            .filter_map(|cookie| cookie.trim().split_once('='))
            .any(|(name, value)| name == self.cookie && self.is_token(value))
    }

    fn is_token(&self, text: &str) -> bool {
        ct_eq(text.as_bytes(), self.token.as_bytes())
    }

    /// The answer to a first visit with the right token: the cookie, and the same page without the secret in its
    /// address.
    fn exchange(&self, path: &str, query: &str) -> Option<Response> {
        let token = query.split('&').find_map(|part| part.strip_prefix("token="))?;
        if path != "/" || !self.is_token(token) {
            return None;
        }
        let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie, self.token);
        let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/".to_owned())];
        Some((StatusCode::SEE_OTHER, headers).into_response())
    }
}

/// The page itself holds no secret, and whoever starts a node must be able to ask whether it is up.
fn is_open(path: &str) -> bool {
    !path.starts_with("/api/") && path != "/metrics"
}

fn forbidden(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code, detail)
}

/// The middleware around every route.
pub(crate) async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let uri = request.uri();
    let checked = door.check(request.method(), uri.path(), request.headers());
    let mut response = match checked {
        Err(problem) => problem.into_response(),
        Ok(()) => match door.exchange(uri.path(), uri.query().unwrap_or("")) {
            Some(response) => response,
            None => next.run(request).await,
        },
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, path: &str, headers: &[(&'static str, &str)]) -> Result<(), &'static str> {
        let door = Door::new("secret".to_owned(), SocketAddr::from(([127, 0, 0, 1], 8420)));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header value"));
        }
        door.check(method, path, &map).map_err(|problem| problem.code)
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:8420");

    #[test]
    fn only_the_own_host_and_origin_come_in() {
        assert_eq!(check(&Method::GET, "/", &[HOST]), Ok(()));
        assert_eq!(check(&Method::GET, "/", &[("host", "localhost:8420")]), Ok(()));
        assert_eq!(check(&Method::GET, "/", &[("host", "evil.example:8420")]), Err("host"));
        assert_eq!(check(&Method::GET, "/", &[]), Err("host"));
        assert_eq!(check(&Method::GET, "/", &[HOST, ("origin", "http://evil.example")]), Err("origin"));
        assert_eq!(check(&Method::GET, "/", &[HOST, ("origin", "http://127.0.0.1:8420")]), Ok(()));
    }

    #[test]
    fn the_api_needs_the_token_and_a_write_by_cookie_needs_the_header() {
        let bearer = ("authorization", "Bearer secret");
        let cookie = ("cookie", "a=b; fairshare-8420=secret");
        assert_eq!(check(&Method::GET, "/api/v1/node", &[HOST]), Err("token"));
        assert_eq!(check(&Method::GET, "/metrics", &[HOST]), Err("token"));
        assert_eq!(check(&Method::GET, "/healthz", &[HOST]), Ok(()));
        assert_eq!(
            check(&Method::GET, "/api/v1/node", &[HOST, ("authorization", "Bearer wrong")]),
            Err("token")
        );
        assert_eq!(check(&Method::POST, "/api/v1/peers", &[HOST, bearer]), Ok(()));
        assert_eq!(check(&Method::GET, "/api/v1/node", &[HOST, cookie]), Ok(()));
        assert_eq!(check(&Method::POST, "/api/v1/peers", &[HOST, cookie]), Err("write-header"));
        assert_eq!(check(&Method::POST, "/api/v1/peers", &[HOST, cookie, (WRITE_HEADER, "1")]), Ok(()));
        assert_eq!(
            check(&Method::GET, "/api/v1/node", &[HOST, ("cookie", "fairshare-8421=secret")]),
            Err("token")
        );
    }

    #[test]
    fn the_first_visit_gets_a_cookie_and_a_clean_address() {
        let door = Door::new("secret".to_owned(), SocketAddr::from(([127, 0, 0, 1], 8420)));
        assert_eq!(door.entry(), "http://127.0.0.1:8420/?token=secret");
        let response = door.exchange("/", "token=secret").expect("exchanged");
        assert_eq!(response.headers()[header::LOCATION], "/");
        let cookie = response.headers()[header::SET_COOKIE].to_str().expect("text");
        assert!(cookie.starts_with("fairshare-8420=secret;") && cookie.contains("HttpOnly"));
        assert!(door.exchange("/", "token=wrong").is_none());
        assert!(door.exchange("/app.js", "token=secret").is_none());
    }
}
