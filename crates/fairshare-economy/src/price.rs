//! The price of a byte: low while capacity lies idle, full when what is sent to those who earned it fills the line.
//= spec/economy.md#52-price-and-charge

use crate::rate::{CapacityMeter, RateMeter};
use fairshare_wire::Instant;
use std::time::Duration;

/// The full price: one charged byte per real byte, in 1/65536.
pub const PRICE_FULL: u32 = 65_536;
/// The price of an idle provider: one eighth.
pub const PRICE_IDLE: u32 = 8_192;

/// How long one period of measurement lasts.
pub(crate) const PERIOD: Duration = Duration::from_secs(600);
/// Utilisation in millionths up to which the price is the idle one.
const UTILISATION_IDLE: u64 = 600_000;
/// Utilisation from which on the price is the full one.
const UTILISATION_FULL: u64 = 900_000;
const UTILISATION_MAX: u64 = 1_000_000;
/// After this many idle periods nothing is left of any utilisation: floor(7 V / 10) reaches 0 from 10^6 within 40.
const PERIODS_MAX: u64 = 64;

/// The price that belongs to a smoothed utilisation, in millionths.
pub fn price_of(utilisation: u64) -> u32 {
    if utilisation <= UTILISATION_IDLE {
        return PRICE_IDLE;
    }
    if utilisation >= UTILISATION_FULL {
        return PRICE_FULL;
    }
    let span = u64::from(PRICE_FULL - PRICE_IDLE);
    let above = (utilisation - UTILISATION_IDLE) * span / (UTILISATION_FULL - UTILISATION_IDLE);
    PRICE_IDLE + u32::try_from(above).expect("less than the span of prices")
}

/// Smoothed utilisation after one more period.
fn smoothed(utilisation: u64, measured: u64) -> u64 {
    (3 * measured + 7 * utilisation) / 10
}

/// Measures utilisation and tells the price.
#[derive(Clone, Debug)]
pub(crate) struct PriceMeter {
    utilisation: u64,
    period_start: Instant,
    /// Bytes of this period sent to peers with standing and to friends; pool bytes are not counted.
    counted: u64,
    capacity: CapacityMeter,
    /// When a peer with standing was last sent something.
    recent: RateMeter,
}

impl PriceMeter {
    pub(crate) fn new(now: Instant, utilisation: u64, upload_limit: Option<u64>) -> Self {
        Self {
            utilisation: utilisation.min(UTILISATION_MAX),
            period_start: now,
            counted: 0,
            capacity: CapacityMeter::new(upload_limit),
            recent: RateMeter::default(),
        }
    }

    /// The price of new grants.
    pub(crate) fn price(&self) -> u32 {
        price_of(self.utilisation)
    }

    /// The smoothed utilisation, to be stored.
    pub(crate) const fn utilisation(&self) -> u64 {
        self.utilisation
    }

    /// Upload capacity in bytes per second.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.bytes_per_second()
    }

    /// When the running period ends.
    pub(crate) fn period_end(&self) -> Instant {
        self.period_start + PERIOD
    }

    /// `bytes` were sent to a peer, out of the pool or not.
    pub(crate) fn sent(&mut self, now: Instant, bytes: u64, pool: bool) {
        self.capacity.sent(now, bytes);
        if !pool {
            self.counted = self.counted.saturating_add(bytes);
            self.recent.add(now, bytes);
        }
    }

    /// Bytes sent to peers with standing in the last ten seconds.
    pub(crate) fn standing_recently(&self, now: Instant) -> u64 {
        self.recent.sum(now, 10)
    }

    /// Closes the periods that have ended; whether any has.
    pub(crate) fn close_periods(&mut self, now: Instant) -> bool {
        let periods = now.since(self.period_start).as_secs() / PERIOD.as_secs();
        if periods == 0 {
            return false;
        }
        let possible = u128::from(self.capacity()) * u128::from(PERIOD.as_secs());
        let share = u128::from(self.counted) * u128::from(UTILISATION_MAX) / possible.max(1);
        let mut measured = u64::try_from(share).unwrap_or(u64::MAX).min(UTILISATION_MAX);
        for _ in 0..periods.min(PERIODS_MAX) {
            self.utilisation = smoothed(self.utilisation, measured);
            measured = 0;
        }
        self.counted = 0;
        self.period_start = self.period_start + PERIOD * u32::try_from(periods).unwrap_or(u32::MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/economy.md#52-price-and-charge
    #[test]
    fn the_price_follows_the_table() {
        for (utilisation, price) in [
            (0, 8192),
            (600_000, 8192),
            (600_005, 8192),
            (600_006, 8193),
            (750_000, 36_864),
            (899_999, 65_535),
            (900_000, 65_536),
            (1_000_000, 65_536),
        ] {
            assert_eq!(price_of(utilisation), price, "{utilisation}");
        }
    }

    #[test]
    fn utilisation_is_smoothed_with_integers() {
        let limit = 1_000_000;
        let mut meter = PriceMeter::new(Instant::START, 0, Some(limit));
        let mut now = Instant::START;
        let mut seen = Vec::new();
        for _ in 0..8 {
            meter.sent(now, limit * 600, false);
            meter.sent(now, limit * 600, true);
            now = now + PERIOD;
            assert!(meter.close_periods(now));
            seen.push(meter.utilisation());
        }
        assert_eq!(seen, [300_000, 510_000, 657_000, 759_900, 831_930, 882_351, 917_645, 942_351]);
        assert_eq!(meter.price(), PRICE_FULL);
    }

    #[test]
    fn a_long_sleep_brings_the_price_down() {
        let mut meter = PriceMeter::new(Instant::START, 1_000_000, Some(1));
        assert!(!meter.close_periods(Instant::START + Duration::from_secs(599)));
        assert!(meter.close_periods(Instant::START + PERIOD * 100));
        assert_eq!((meter.utilisation(), meter.price()), (0, PRICE_IDLE));
    }
}
