//! The engine in a world of two parties: stories in fair weather, storms from a seed.

mod stories;
mod weather;
mod world;
