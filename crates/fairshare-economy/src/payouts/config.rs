//! Settings of the payouts and the bounds that are not settings.

use fairshare_wire::Rate;
use std::time::Duration;

/// One token, and the least that is ever paid.
pub(super) const MIB: u64 = 1 << 20;
/// The largest power of two in MiB that one block pays.
//= spec/payouts.md#34-epochs-and-settlement
pub(super) const POWER_MAX: u8 = 20;
/// Metered bytes of one link and period are rounded up to a multiple of this.
//= spec/payouts.md#32-price
pub(super) const METER_UNIT: u64 = 64 << 10;
/// What a guard earns and pays on for each byte of its own client.
pub(super) const RATE_GUARD: u64 = 5;
/// What a later forwarding hop earns and pays on.
pub(super) const RATE_RELAY: u64 = 3;
/// What the last hop earns.
pub(super) const RATE_END: u64 = 1;
/// What a downloader from a hidden seeder pays beside the ordinary rate; it travels whole to the rendezvous.
pub(super) const RATE_HIDDEN: u64 = 6;
/// The part of it that is for the relays between the rendezvous and the seeder; the seeder itself has 1.
pub(super) const RATE_SEEDER_SIDE: u64 = 4;
/// What each of those relays keeps.
pub(super) const RELAY_KEEPS: u64 = 2;
/// Blocks that one pair writes for one epoch.
pub(super) const PAYMENTS_PER_EPOCH: usize = 2;
/// Epochs after which an unsettled IOU is overdue.
pub(super) const OVERDUE_EPOCHS: u32 = 3;
/// A relation without traffic for that many epochs is idle.
pub(super) const IDLE_EPOCHS: u32 = 4;
/// What is settled counts that long for the limit.
pub(super) const SETTLED_MS: u64 = 30 * 86_400_000;
/// Neighbours that are remembered; each costs about a kilobyte.
pub(super) const NEIGHBOURS_MAX: usize = 4096;
/// Pairs of links whose bytes are remembered for sharing out what travels in proportion.
pub(super) const ROWS_MAX: usize = 16_384;

/// Settings of the payouts. The defaults are those of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayoutsConfig {
    /// E, the length of an epoch in seconds; all nodes that settle with each other use the same.
    pub epoch_s: u64,
    /// How often an IOU goes to a neighbour with which there is traffic; dummies come as often.
    pub iou_interval: Duration,
    /// How many messages of a neighbour are heard: several times as many as an honest one has to say.
    pub message_rate: Rate,
    /// New debt that makes an IOU due at once.
    pub iou_amount: u64,
    /// The random delay of an IOU that nobody waits for.
    pub iou_jitter: Duration,
    /// Whether the unchanged IOU is sent on idle links.
    pub dummy_ious: bool,
    /// Whether one payment an epoch goes to a new neighbour to which nothing is owed.
    pub dummy_payments: bool,
    /// How long after the end of an epoch payments are spread, as a part of the epoch in per mille.
    pub jitter_per_mille: u32,
    /// How often a payment that got no answer is tried again.
    pub retry: Duration,
    /// What every neighbour may leave unpaid without any standing.
    pub base_limit: u64,
    /// What full trust adds to it; up to four times that.
    pub trust_limit: u64,
    /// The limit of the limit.
    pub max_limit: u64,
    /// How many times the limit a neighbour may owe by IOUs that are not due yet.
    pub iou_credit: u64,
    /// What all neighbours that never settled may take together in a day.
    pub newcomer_pool: u64,
    /// How long a neighbour over its limit has to send an IOU before it is slowed: longer than a metering period, since
    /// it can promise only what it has measured itself.
    pub grace: Duration,
    /// How long it is slowed before its circuits end.
    pub slow: Duration,
}

impl PayoutsConfig {
    /// The settings for epochs of another length, for tests and small networks: what happens several times in an epoch
    /// comes as much sooner as it must.
    pub fn with_epoch(epoch_s: u64) -> Self {
        let at_most =
            |part: u32, usual: u64| (Duration::from_secs(epoch_s) / part).min(Duration::from_secs(usual));
        Self {
            epoch_s,
            iou_interval: at_most(10, 60),
            message_rate: message_rate(epoch_s),
            iou_amount: 48 * MIB,
            iou_jitter: at_most(30, 20),
            dummy_ious: true,
            dummy_payments: true,
            jitter_per_mille: 500,
            retry: at_most(20, 600),
            base_limit: 32 * MIB,
            trust_limit: 64 * MIB,
            max_limit: 2 << 30,
            iou_credit: 8,
            newcomer_pool: 1 << 30,
            grace: at_most(2, 90),
            slow: Duration::from_secs(30),
        }
    }
}

/// In order come about eight messages a minute, and in short epochs as many more as IOUs come sooner.
const fn message_rate(epoch_s: u64) -> Rate {
    let per_second = match epoch_s {
        0 => 160,
        1..80 => 160 / epoch_s as u32 + 1,
        _ => 2,
    };
    Rate { per_second, burst: 32 }
}

impl Default for PayoutsConfig {
    /// Epochs of six hours.
    fn default() -> Self {
        Self::with_epoch(21_600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/payouts.md#34-epochs-and-settlement
    #[test]
    fn short_epochs_leave_time_for_what_happens_in_them() {
        let usual = PayoutsConfig::default();
        assert_eq!((usual.epoch_s, usual.iou_interval.as_secs(), usual.retry.as_secs()), (21_600, 60, 600));
        let short = PayoutsConfig::with_epoch(20);
        assert_eq!((short.iou_interval.as_secs(), short.retry.as_secs()), (2, 1));
        for settings in [usual, short] {
            let heard = settings.iou_interval * settings.message_rate.per_second;
            assert!(heard >= Duration::from_secs(16), "an IOU and its answer are never too many");
        }
    }
}
