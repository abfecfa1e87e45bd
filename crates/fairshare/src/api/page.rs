//! The page: plain files inside the binary.

use crate::api::server::Api;
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;

const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("../../web/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("../../web/app.js")),
    ("/format.js", "text/javascript; charset=utf-8", include_str!("../../web/format.js")),
    ("/html.js", "text/javascript; charset=utf-8", include_str!("../../web/html.js")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../../web/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../../web/icon.svg")),
];

/// One route for each file.
pub(crate) fn routes() -> Router<Arc<Api>> {
    FILES.iter().fold(Router::new(), |router, (path, kind, text)| {
        router
            .route(path, get(move || async move { ([(header::CONTENT_TYPE, *kind)], *text).into_response() }))
    })
}
