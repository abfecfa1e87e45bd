//! The demo: eight real nodes, real files, real signatures, one story.

mod audit;
mod content;
mod fork;
mod scenario;
