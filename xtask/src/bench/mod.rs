//! `bench NAME`: figures and ratios of one run on this machine. Ratios compare; absolute figures do not travel.

use crate::arguments::Arguments;

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let json = arguments.switch("--json");
    let name = arguments.word().ok_or("bench needs a name: first-light")?;
    arguments.finish()?;
    let _ = json;
    Err(format!("no bench is called {name}; there is first-light"))
}
