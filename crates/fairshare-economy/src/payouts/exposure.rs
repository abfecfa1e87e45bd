//! What a neighbour that has not paid may still do.
//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid

use super::engine::{Payouts, Timer};
use super::message::SettleMessage;
use super::output::{LinkAllowance, PayoutsEvent, PayoutsOutput};
use fairshare_crypto::PublicKey;
use fairshare_wire::{Instant, Now};
use std::time::Duration;

/// A neighbour is asked for an IOU at most that often.
const ASK_PAUSE: Duration = Duration::from_secs(2);
const DAY_US: u64 = 86_400_000_000;
/// A part of the pool that must be there again before newcomers that had too much go on.
const POOL_REOPENS: u64 = 16;

/// What all neighbours that never settled may take together: refilled all the time, full once a day.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    size: u64,
    level: u64,
    at: Instant,
}

impl Pool {
    pub(super) const fn new(size: u64, now: Instant) -> Self {
        Self { size, level: size, at: now }
    }

    /// Takes an amount, down to nothing. False if there was less.
    pub(super) fn draw(&mut self, now: Instant, amount: u64) -> bool {
        self.refill(now);
        let enough = amount <= self.level;
        self.level = self.level.saturating_sub(amount);
        enough
    }

    /// Whether newcomers that had too much may go on.
    pub(super) fn reopens(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.level >= self.size / POOL_REOPENS
    }

    fn refill(&mut self, now: Instant) {
        let span = u64::try_from(now.since(self.at).as_micros()).unwrap_or(u64::MAX);
        let more = u128::from(self.size) * u128::from(span) / u128::from(DAY_US);
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        // Less than one byte: its time goes on counting.
        if more > 0 {
            self.level = self.level.saturating_add(more).min(self.size);
            self.at = now;
        }
    }
}

impl Payouts {
    /// How trustworthy a payment key is, in per mille of full trust: m/m90 of settlement.md 8, up to 4000.
    pub fn set_trust(&mut self, peer: &PublicKey, per_mille: u32) {
        if let Some(account) = self.accounts.get_mut(peer) {
            account.trust = per_mille;
        }
    }

    /// A proof of fraud stands against a payment key: it is not served, and nothing of it is signed.
    pub fn fork_proved(&mut self, now: Now, peer: &PublicKey) {
        self.forkers.insert(*peer);
        let Some(account) = self.accounts.get_mut(peer) else { return };
        account.forker = true;
        if let Some(tunnel) = account.neighbour {
            self.weigh(now, &tunnel);
        }
    }

    /// Decides what a neighbour may do, and asks for an IOU in time.
    pub(super) fn weigh(&mut self, now: Now, tunnel: &PublicKey) {
        let (used, patience) = self.used_per_mille(now, tunnel);
        let Some(neighbour) = self.neighbours.get_mut(tunnel) else { return };
        if used >= 500 && neighbour.asked.is_none_or(|asked| now.mono.since(asked) >= ASK_PAUSE) {
            neighbour.asked = Some(now.mono);
            let epoch = self.epoch(now);
            self.send(*tunnel, &SettleMessage::IouRequest { epoch });
        }
        let allowance = self.step(now, tunnel, used, patience);
        let Some(neighbour) = self.neighbours.get_mut(tunnel) else { return };
        if neighbour.allowance != allowance {
            neighbour.allowance = allowance;
            self.output(PayoutsOutput::Allowance { neighbour: *tunnel, allowance });
        }
    }

    /// How much of its limit a neighbour uses, in 1/1000; `None` for one whose payment key is not known: it has no credit.
    //= spec/payouts.md#35-the-circuits-themselves
    pub fn credit(&mut self, now: Now, neighbour: &PublicKey) -> Option<u32> {
        self.neighbours.get(neighbour)?.peer?;
        let (used, _) = self.used_per_mille(now, neighbour);
        Some(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// How much of its limit a neighbour uses: by what no IOU covers, and by IOUs that were not paid. And how long it may
    /// be over it: only what an IOU can cure deserves patience.
    fn used_per_mille(&mut self, now: Now, tunnel: &PublicKey) -> (u64, Duration) {
        let epoch = self.epoch(now);
        let reopened = self.pool.reopens(now.mono);
        let (config, Some(neighbour)) = (self.config.clone(), self.neighbours.get_mut(tunnel)) else {
            return (0, Duration::ZERO);
        };
        neighbour.pool_empty &= !reopened;
        let pool_empty = neighbour.pool_empty;
        let Some(account) = self.account_of(tunnel) else { return (0, Duration::ZERO) };
        let limit = account.limit(&config, epoch);
        let credit = limit.saturating_mul(config.iou_credit);
        if limit == 0 || (pool_empty && account.is_newcomer()) {
            return (1000, Duration::ZERO);
        }
        let share = |amount: u64, of: u64| {
            let share = u128::from(amount) * 1000 / u128::from(of.max(1));
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        let (uncovered, covered) = (share(account.uncovered(), limit), share(account.covered(), credit));
        let patience = if covered < 1000 { config.grace } else { Duration::ZERO };
        (uncovered.max(covered), patience)
    }

    fn step(&mut self, now: Now, tunnel: &PublicKey, used: u64, grace: Duration) -> LinkAllowance {
        let slow = self.config.slow;
        let Some(neighbour) = self.neighbours.get_mut(tunnel) else { return LinkAllowance::Open };
        if used < 1000 {
            // Whoever was cut off comes back only when half of it is free again.
            if neighbour.over_since.is_some() && used >= 500 && neighbour.allowance == LinkAllowance::Cut {
                return LinkAllowance::Cut;
            }
            neighbour.over_since = None;
            self.timers.cancel(Timer::Watch(*tunnel));
            return if used >= 750 { LinkAllowance::NoNewCircuits } else { LinkAllowance::Open };
        }
        let since = *neighbour.over_since.get_or_insert(now.mono);
        let over = now.mono.since(since);
        let (allowance, next) = if over < grace {
            (LinkAllowance::NoNewCircuits, Some(since + grace))
        } else if over < grace + slow {
            (LinkAllowance::Slow, Some(since + grace + slow))
        } else {
            (LinkAllowance::Cut, None)
        };
        if let Some(next) = next {
            self.timers.set(Timer::Watch(*tunnel), next);
        }
        allowance
    }

    /// At the end of an epoch: who owes for how long, and what is forgiven.
    pub(super) fn reckon(&mut self, now: Now, ended: u32) {
        let mut events = Vec::new();
        for (peer, account) in &mut self.accounts {
            account.forget_settled(now.unix_ms);
            let before = account.owing_since;
            let owes = account.covered() >= super::config::MIB;
            account.owing_since = if owes { account.owing_since.or(Some(ended)) } else { None };
            if account.owing_since != before {
                self.dirty.insert(*peer);
            }
            let overdue = account.is_overdue(ended.saturating_add(1)) && !account.is_overdue(ended);
            if overdue {
                events.push(PayoutsEvent::Overdue { peer: *peer, amount: account.covered() });
            }
            let net = account.net();
            if account.is_idle(ended)
                && net != 0
                && super::account::power(net.abs()).is_none()
                && !account.forgiven
            {
                account.forgiven = true;
                let amount = i64::try_from(net).expect("less than a MiB");
                events.push(PayoutsEvent::Forgiven { peer: *peer, amount });
            }
        }
        for event in events {
            self.event(event);
        }
        // Who never shows a key is served a limit's worth in each epoch, out of the pool. What we owe it stays.
        for (tunnel, neighbour) in self.neighbours.iter_mut().filter(|(_, it)| it.peer.is_none()) {
            if neighbour.unbound.since.is_some_and(|since| since < ended) {
                neighbour.unbound.write_off(ended);
                self.dirty_neighbours.insert(*tunnel);
            }
        }
        let tunnels: Vec<_> = self.neighbours.keys().copied().collect();
        for tunnel in tunnels {
            self.weigh(now, &tunnel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    #[test]
    fn the_pool_of_newcomers_is_full_again_after_a_day() {
        let at = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
        let mut pool = Pool::new(86_400, at(0));
        assert!(pool.draw(at(0), 86_400) && !pool.draw(at(0), 1));
        assert!(!pool.reopens(at(5_399)) && pool.reopens(at(5_400)));
        assert!(pool.draw(at(5_400), 5_400) && !pool.draw(at(5_400), 1));
        assert!(pool.draw(at(1 << 30), 86_400) && !pool.draw(at(1 << 30), 1), "never more than full");
    }
}
