//! `bench NAME`: figures and ratios of one run on this machine. Ratios compare; absolute figures do not travel.

mod first_light;
mod peer;
mod tracker;
mod trust;
mod tunnel;

use crate::arguments::Arguments;

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let json = arguments.switch("--json");
    let name = arguments.word().ok_or("bench needs a name: first-light, trust or tunnel")?;
    arguments.finish()?;
    match name.as_str() {
        "first-light" => first_light::run(json),
        "trust" => trust::run(json),
        "tunnel" => tunnel::run(json),
        other => Err(format!("no bench is called {other}; there are first-light, trust and tunnel")),
    }
}
