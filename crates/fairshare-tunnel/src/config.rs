//! What shapes the engine's behaviour; `TunnelConfig::default()` has the values of the specification.

use crate::wire::Flags;
use fairshare_wire::CommunityId;
use std::time::Duration;

/// Settings of the engine.
//= spec/tunnels.md#6-keeping-and-dropping
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// The communities that circuits are built in, preferred ones first.
    pub communities: Vec<CommunityId>,
    /// Whether circuits of others pass here.
    pub relay: bool,
    /// Whether what looks like BitTorrent leaves circuits here.
    pub exit_bt: bool,
    /// Whether overlay packets leave circuits here.
    pub exit_ipv8: bool,
    /// Whether HTTP requests are carried out for circuits here.
    pub exit_http: bool,
    /// Whether speed tests are answered.
    pub speed_test: bool,
    /// Hops of one circuit may stand in one network. For tests on one machine.
    pub allow_same_subnet: bool,
    /// An exit may reach loopback addresses. For tests on one machine.
    pub exit_loopback: bool,
    /// Circuits of others at once; one that is passed on counts twice.
    pub max_joined: usize,
    /// Own circuits at once.
    pub max_own: usize,
    /// An answer to CREATE or EXTEND must come within this time.
    pub hop_timeout: Duration,
    /// A circuit that is not complete after this is given up when the next hop fails.
    pub build_timeout: Duration,
    /// Between two pings of one circuit.
    pub ping_interval: Duration,
    /// A circuit without traffic for so long is dropped.
    pub idle_max: Duration,
    /// After this, or so many bytes, a circuit takes no new destinations and is replaced.
    pub rotate_after: Duration,
    /// See `rotate_after`.
    pub rotate_bytes: u64,
    /// A circuit is dropped at this age.
    pub age_max: Duration,
    /// A circuit that carried so much is dropped.
    pub traffic_max: u64,
    /// How often carried bytes are reported.
    pub metering: Duration,
    /// How often the peers of a hidden swarm are looked for.
    pub lookup: Duration,
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            communities: Vec::new(),
            relay: false,
            exit_bt: false,
            exit_ipv8: false,
            exit_http: false,
            speed_test: true,
            allow_same_subnet: false,
            exit_loopback: false,
            max_joined: 2_000,
            max_own: 200,
            hop_timeout: Duration::from_secs(10),
            build_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_millis(7_500),
            idle_max: Duration::from_secs(20),
            rotate_after: Duration::from_secs(600),
            rotate_bytes: 1 << 30,
            age_max: Duration::from_secs(3_600),
            traffic_max: 10 << 30,
            metering: Duration::from_secs(60),
            lookup: Duration::from_secs(30),
        }
    }
}

impl TunnelConfig {
    /// What our introductions tell. A node that does not relay tells nothing and answers no CREATE.
    //= spec/tunnels.md#1-identities-prefix-peer-flags
    pub fn flags(&self) -> Flags {
        let part = |on: bool, flag: Flags| if on { flag } else { Flags::NONE };
        if !self.relay {
            return Flags::NONE;
        }
        Flags::RELAY
            | part(self.speed_test, Flags::SPEED_TEST)
            | part(self.exit_bt, Flags::EXIT_BT)
            | part(self.exit_ipv8, Flags::EXIT_IPV8)
            | part(self.exit_http, Flags::EXIT_HTTP)
    }
}
