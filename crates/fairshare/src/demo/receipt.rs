//! What the story promised, what it kept, and the receipt at the end.
//= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it

use crate::show;
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::time::Duration;

/// One promise of the story.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    /// A stable name.
    pub(crate) name: &'static str,
    /// Whether it was kept.
    pub(crate) ok: bool,
    /// The figures.
    pub(crate) detail: String,
}

impl Promise {
    pub(crate) fn new(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self { name, ok, detail: detail.into() }
    }
}

/// The end of the story in numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receipt {
    /// What was promised.
    pub(crate) promises: Vec<Promise>,
    /// File contents that were sent.
    pub(crate) bytes_moved: u64,
    /// Real bytes that were paid by both signatures.
    pub(crate) bytes_paid: u64,
    /// Sum of all balances.
    pub(crate) balance_sum: i128,
    /// Refusals that nodes met.
    pub(crate) refusals: usize,
    /// Keys that were proved to have forked.
    pub(crate) frauds_proved: usize,
    /// From the first node's start to the last promise.
    pub(crate) wall: Duration,
}

impl Receipt {
    /// Whether every promise was kept.
    pub(crate) fn ok(&self) -> bool {
        !self.promises.is_empty() && self.promises.iter().all(|promise| promise.ok)
    }

    pub(crate) fn to_json(&self) -> Json {
        let one =
            |promise: &Promise| json!({ "name": promise.name, "ok": promise.ok, "detail": promise.detail });
        let hundredths = u128::from(self.bytes_paid) * 100 / u128::from(show::TOKEN);
        json!({
            "ok": self.ok(),
            "promises": self.promises.iter().map(one).collect::<Vec<_>>(),
            "bytes_moved": self.bytes_moved,
            "tokens_paid": hundredths as f64 / 100.0,
            "balance_sum": i64::try_from(self.balance_sum).unwrap_or(i64::MAX),
            "refusals": self.refusals,
            "frauds_proved": self.frauds_proved,
            "wall_s": self.wall.as_secs_f64(),
        })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::from("\n── receipt ──────────────────────────────────────────────\n");
        for promise in &self.promises {
            let mark = if promise.ok { "kept  " } else { "BROKEN" };
            let _ = writeln!(text, "{mark}  {}: {}", promise.name, promise.detail);
        }
        let _ = write!(
            text,
            "\nbytes moved       {}\ntokens paid       {}\nsum of balances   {}\nrefusals          {}\nfrauds caught     {}\nwall time         {:.1} s\n{}",
            show::bytes(self.bytes_moved),
            show::tokens(i128::from(self.bytes_paid)).trim_start_matches('+'),
            show::tokens(self.balance_sum),
            self.refusals,
            self.frauds_proved,
            self.wall.as_secs_f64(),
            if self.ok() { "every promise was kept" } else { "a promise was broken" },
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_breaks_the_receipt() {
        let mut receipt = Receipt { bytes_paid: 3 << 19, ..Receipt::default() };
        assert!(!receipt.ok(), "no promise was checked");
        receipt.promises.push(Promise::new("one", true, ""));
        assert!(receipt.ok());
        assert_eq!(receipt.to_json()["tokens_paid"], 1.5);
        assert_eq!(receipt.to_json()["balance_sum"], 0);
        receipt.promises.push(Promise::new("two", false, "because"));
        assert!(!receipt.ok());
        assert!(receipt.to_text().contains("BROKEN  two: because"));
    }
}
