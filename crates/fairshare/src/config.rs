//! Configuration in four layers: default, file (`DIR/config.toml`), environment (`FAIRSHARE_...`), command line.
//! Each later layer wins, and every value remembers which layer it came from. One table names every key, so that
//! nothing can be set that is not shown, and a misspelt key is an error with its line rather than silence.

use crate::failure::{Failure, Outcome};
use fairshare_crypto::PublicKey;
use fairshare_economy::Policy;
use fairshare_trust::EngineKind;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Largest configuration file that is read: far more than all keys with full lists need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Every setting of a node, typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// UDP and TCP address of the node; port 0 picks one.
    pub(crate) listen: SocketAddrV4,
    /// Address of the HTTP API; port 0 picks one.
    pub(crate) api: SocketAddr,
    /// Overlay addresses that help a node without peers to find some.
    pub(crate) bootstrap: Vec<SocketAddr>,
    /// The admission policy.
    pub(crate) policy: Policy,
    /// Keys that are always served.
    pub(crate) friends: BTreeSet<PublicKey>,
    /// What a stranger may take from this node before giving anything, in charged bytes.
    pub(crate) stranger_bytes: u64,
    /// Foreign block types that are countersigned without judgement.
    pub(crate) countersign: Vec<String>,
    /// Upload slots; `None` = by measurement.
    pub(crate) slots: Option<usize>,
    /// Whether others are served at all.
    pub(crate) allow_upload: bool,
    /// Whether streams go over uTP only.
    pub(crate) utp_only: bool,
    /// Whether circuits of others pass through this node.
    pub(crate) relay: bool,
    /// Whether traffic of others leaves the circuits here.
    pub(crate) exit: bool,
    /// Hops of one circuit may stand in one network: on one machine.
    pub(crate) allow_same_subnet: bool,
    /// An exit may reach loopback addresses: on one machine.
    pub(crate) exit_loopback: bool,
    /// Ports of the SOCKS5 servers for 1, 2 and 3 hops begin here; `None` = none.
    pub(crate) socks_port: Option<u16>,
    /// How often hidden services look for each other, in seconds.
    pub(crate) lookup_s: u64,
    /// Length of an epoch of payouts in seconds.
    pub(crate) epoch_s: u64,
    /// The reputation engine.
    pub(crate) engine: EngineKind,
}

/// Which layer a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// The command line.
    Flag,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "env",
            Self::Flag => "flag",
        }
    }
}

/// A configuration with the layer of each of its values.
#[derive(Clone, Debug)]
pub(crate) struct Layered {
    /// The values.
    pub(crate) config: Config,
    sources: BTreeMap<&'static str, Source>,
}

impl Layered {
    /// Reads file and environment over the defaults, then applies the flags (name, text).
    pub(crate) fn load(
        file: &Path,
        env: impl Fn(&str) -> Option<String>,
        flags: &[(&'static str, String)],
    ) -> Outcome<Self> {
        let mut layered = Self { config: Config::default(), sources: BTreeMap::new() };
        if let Some(text) = read_file(file)? {
            layered.apply_file(file, &text)?;
        }
        for key in KEYS {
            if let Some(text) = env(&variable(key.name)) {
                layered
                    .set(key, Raw::Text(text), Source::Environment)
                    .map_err(|why| Failure::bad_use("config", format!("{}: {why}", variable(key.name))))?;
            }
        }
        for (name, text) in flags {
            let key = key(name).expect("the command line names keys of the table");
            layered
                .set(key, Raw::Text(text.clone()), Source::Flag)
                .map_err(|why| Failure::bad_use("config", format!("{name}: {why}")))?;
        }
        Ok(layered)
    }

    /// Every key with its value and its source, in the order of the table.
    pub(crate) fn rows(&self) -> Vec<(&'static str, Json, Source, &'static str)> {
        KEYS.iter().map(|key| (key.name, (key.show)(&self.config), self.source(key.name), key.help)).collect()
    }

    /// The rows as one JSON value.
    pub(crate) fn to_json(&self) -> Json {
        let rows = self.rows().into_iter().map(|(name, value, source, _)| {
            (name.to_owned(), json!({ "value": value, "source": source.as_str() }))
        });
        Json::Object(rows.collect())
    }

    /// The rows as lines of text, in the form of a configuration file with the source as comment.
    pub(crate) fn to_text(&self) -> String {
        self.rows()
            .into_iter()
            .map(|(name, value, source, help)| format!("{name} = {value}    # {}: {help}\n", source.as_str()))
            .collect()
    }

    fn source(&self, name: &str) -> Source {
        self.sources.get(name).copied().unwrap_or(Source::Default)
    }

    fn set(&mut self, key: &Key, raw: Raw, source: Source) -> Result<(), String> {
        (key.set)(&mut self.config, raw)?;
        self.sources.insert(key.name, source);
        Ok(())
    }

    fn apply_file(&mut self, file: &Path, text: &str) -> Outcome {
        let fault = |at: usize, why: String| {
            let line = text.get(..at).unwrap_or("").matches('\n').count() + 1;
            Failure::bad_use("config", format!("{}, line {line}: {why}", file.display()))
                .hint("fairshare config show lists every key")
        };
        let table = DeTable::parse(text)
            .map_err(|error| fault(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        for (at, name, value) in flatten(table.get_ref()) {
            let Some(key) = key(&name) else {
                return Err(fault(at, format!("unknown key `{name}`{}", suggestion(&name))));
            };
            let raw = Raw::from_toml(value).map_err(|why| fault(at, format!("{name}: {why}")))?;
            self.set(key, raw, Source::File).map_err(|why| fault(at, format!("{name}: {why}")))?;
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 8422),
            api: SocketAddr::from(([127, 0, 0, 1], 8420)),
            bootstrap: BOOTSTRAP.iter().map(|text| text.parse().expect("constant addresses")).collect(),
            policy: Policy::Receipts,
            friends: BTreeSet::new(),
            stranger_bytes: 16 << 20,
            countersign: Vec::new(),
            slots: None,
            allow_upload: true,
            utp_only: false,
            relay: false,
            exit: false,
            allow_same_subnet: false,
            exit_loopback: false,
            socks_port: None,
            lookup_s: 30,
            epoch_s: 21_600,
            engine: EngineKind::Merit,
        }
    }
}

/// Well-known public introduction servers of the overlay; they forward nothing but addresses.
//= spec/overlay.md#7-peer-list-walking-timing
const BOOTSTRAP: [&str; 8] = [
    "130.161.119.206:6421",
    "130.161.119.206:6422",
    "131.180.27.155:6423",
    "131.180.27.156:6424",
    "131.180.27.161:6427",
    "130.161.119.215:6525",
    "130.161.119.215:6526",
    "130.161.119.201:6527",
];

/// One key: its name, what it means, how a value is read into the configuration and shown from it.
struct Key {
    name: &'static str,
    help: &'static str,
    set: fn(&mut Config, Raw) -> Result<(), String>,
    show: fn(&Config) -> Json,
}

const KEYS: &[Key] = &[
    Key {
        name: "listen",
        help: "UDP and TCP address of the node; port 0 picks one",
        set: |config, raw| raw.parsed().map(|value| config.listen = value),
        show: |config| json!(config.listen.to_string()),
    },
    Key {
        name: "api",
        help: "address of the HTTP API; port 0 picks one",
        set: |config, raw| {
            let address: SocketAddr = raw.parsed()?;
            if !address.ip().is_loopback() {
                return Err("the API is served on loopback only".to_owned());
            }
            config.api = address;
            Ok(())
        },
        show: |config| json!(config.api.to_string()),
    },
    Key {
        name: "bootstrap",
        help: "overlay addresses that introduce a node without peers",
        set: |config, raw| raw.list().map(|value| config.bootstrap = value),
        show: |config| json!(config.bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>()),
    },
    Key {
        name: "economy.policy",
        help: "who is served: receipts (what each gave the other) or none (everybody; for experiments)",
        set: |config, raw| raw.policy().map(|value| config.policy = value),
        show: |config| json!(if config.policy == Policy::None { "none" } else { "receipts" }),
    },
    Key {
        name: "economy.friends",
        help: "public keys that are always served",
        set: |config, raw| raw.list().map(|keys: Vec<PublicKey>| config.friends = keys.into_iter().collect()),
        show: |config| json!(config.friends.iter().map(ToString::to_string).collect::<Vec<_>>()),
    },
    Key {
        name: "economy.stranger_bytes",
        help: "charged bytes that a stranger may take before giving",
        set: |config, raw| raw.amount().map(|value| config.stranger_bytes = value),
        show: |config| json!(config.stranger_bytes),
    },
    Key {
        name: "ledger.countersign",
        help: "foreign block types that are signed without judgement; for experiments",
        set: |config, raw| raw.list().map(|value| config.countersign = value),
        show: |config| json!(config.countersign),
    },
    Key {
        name: "swarm.slots",
        help: "peers that are served at a time, 0 = by measurement",
        set: |config, raw| {
            let count = usize::try_from(raw.amount()?).ok().filter(|count| *count <= SLOTS_MAX);
            let count = count.ok_or_else(|| format!("at most {SLOTS_MAX} slots"))?;
            config.slots = (count > 0).then_some(count);
            Ok(())
        },
        show: |config| json!(config.slots.unwrap_or(0)),
    },
    Key {
        name: "swarm.allow_upload",
        help: "whether others are served at all",
        set: |config, raw| raw.flag().map(|value| config.allow_upload = value),
        show: |config| json!(config.allow_upload),
    },
    Key {
        name: "swarm.utp_only",
        help: "open streams over uTP only, never over TCP; for comparison",
        set: |config, raw| raw.flag().map(|value| config.utp_only = value),
        show: |config| json!(config.utp_only),
    },
    Key {
        name: "tunnel.relay",
        help: "whether circuits of others pass through this node, for payment",
        set: |config, raw| raw.flag().map(|value| config.relay = value),
        show: |config| json!(config.relay),
    },
    Key {
        name: "tunnel.exit",
        help: "whether BitTorrent traffic of others leaves their circuits here, under this node's address",
        set: |config, raw| raw.flag().map(|value| config.exit = value),
        show: |config| json!(config.exit),
    },
    Key {
        name: "tunnel.socks_port",
        help: "SOCKS5 servers on loopback for 1, 2 and 3 hops at this port and the two after it, 0 = none",
        set: |config, raw| {
            let port = u16::try_from(raw.amount()?).ok().filter(|port| *port <= u16::MAX - 2);
            let port = port.ok_or("a port number up to 65533 is wanted")?;
            config.socks_port = (port > 0).then_some(port);
            Ok(())
        },
        show: |config| json!(config.socks_port.unwrap_or(0)),
    },
    Key {
        name: "tunnel.lookup_s",
        help: "seconds between two looks for the peers of a hidden torrent",
        set: |config, raw| raw.seconds().map(|value| config.lookup_s = value),
        show: |config| json!(config.lookup_s),
    },
    Key {
        name: "tunnel.allow_same_subnet",
        help: "let the hops of a circuit stand in one network; for tests on one machine",
        set: |config, raw| raw.flag().map(|value| config.allow_same_subnet = value),
        show: |config| json!(config.allow_same_subnet),
    },
    Key {
        name: "tunnel.exit_loopback",
        help: "let an exit reach loopback addresses; for tests on one machine",
        set: |config, raw| raw.flag().map(|value| config.exit_loopback = value),
        show: |config| json!(config.exit_loopback),
    },
    Key {
        name: "payouts.epoch_s",
        help: "seconds after which relays are paid together; one day hides most, seconds are for tests",
        set: |config, raw| raw.seconds().map(|value| config.epoch_s = value),
        show: |config| json!(config.epoch_s),
    },
    Key {
        name: "trust.engine",
        help: "how reputation is computed: merit, hitting or ppr",
        set: |config, raw| raw.engine().map(|value| config.engine = value),
        show: |config| json!(config.engine.name()),
    },
];

/// More slots than this only share the same line among more peers.
//= spec/swarm.md#62-rounds-and-slots
const SLOTS_MAX: usize = 64;

fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// `economy.stranger_bytes` is `FAIRSHARE_ECONOMY_STRANGER_BYTES` in the environment.
fn variable(name: &str) -> String {
    format!("FAIRSHARE_{}", name.to_ascii_uppercase().replace('.', "_"))
}

/// A key that ends like the unknown one, if there is one: most mistakes are a forgotten or a wrong table.
fn suggestion(name: &str) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    let found = KEYS.iter().find(|key| key.name.rsplit('.').next() == Some(last));
    found.map_or_else(String::new, |key| format!("; did you mean `{}`?", key.name))
}

fn read_file(file: &Path) -> Outcome<Option<String>> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(file, &error)),
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            return Err(Failure::bad_use("config", format!("{} is larger than 1 MiB", file.display())));
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(file).map(Some).map_err(|error| Failure::io(file, &error))
}

/// The leaves of a configuration file with their dotted names and positions.
fn flatten<'a>(table: &'a DeTable<'a>) -> Vec<(usize, String, &'a DeValue<'a>)> {
    let mut leaves = Vec::new();
    for (name, value) in table {
        match value.get_ref() {
            DeValue::Table(inner) => {
                let inner = inner.iter().map(|(leaf, value)| {
                    (
                        leaf.span().start,
                        format!("{}.{}", name.get_ref(), leaf.get_ref()),
                        Spanned::get_ref(value),
                    )
                });
                leaves.extend(inner);
            }
            leaf => leaves.push((name.span().start, name.get_ref().to_string(), leaf)),
        }
    }
    // In the order of the file, so that the first error is the first line.
    leaves.sort_by_key(|(at, ..)| *at);
    leaves
}

/// A value before it is typed: from the file with its form, from environment and command line as text.
enum Raw {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
}

impl Raw {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Ok(match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Boolean(flag) => Self::Flag(*flag),
            DeValue::Integer(number) => {
                let number = u64::from_str_radix(number.as_str(), number.radix());
                Self::Number(number.map_err(|_| "a whole number of 0 or more is wanted".to_owned())?)
            }
            DeValue::Array(items) => {
                let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
                Self::List(texts.collect::<Option<_>>().ok_or("a list of texts is wanted")?)
            }
            other => return Err(format!("{} is not wanted here", other.type_str())),
        })
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(self) -> Result<T, String> {
        match self {
            Self::Text(text) => text.trim().parse().map_err(|error| format!("`{text}`: {error}")),
            _ => Err("a text is wanted".to_owned()),
        }
    }

    /// A list; as text its items are separated by commas, and the empty text is the empty list.
    fn list<T: std::str::FromStr<Err: std::fmt::Display>>(self) -> Result<Vec<T>, String> {
        let items = match self {
            Self::List(items) => items,
            Self::Text(text) => {
                text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
            }
            _ => return Err("a list of texts is wanted".to_owned()),
        };
        items.into_iter().map(|item| item.parse().map_err(|error| format!("`{item}`: {error}"))).collect()
    }

    /// A number of bytes (or things): `4194304` or `4 MiB`.
    fn amount(self) -> Result<u64, String> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Text(text) => parse_amount(&text),
            _ => Err("a number is wanted".to_owned()),
        }
    }

    /// A span of one second to thirty days.
    fn seconds(self) -> Result<u64, String> {
        let seconds = self.amount()?;
        let allowed = 1..=30 * 86_400;
        if allowed.contains(&seconds) {
            Ok(seconds)
        } else {
            Err("1 to 2592000 seconds are wanted".to_owned())
        }
    }

    fn engine(self) -> Result<EngineKind, String> {
        let engine: EngineKind = self.parsed()?;
        let live = [EngineKind::Merit, EngineKind::Hitting, EngineKind::Ppr];
        if live.contains(&engine) { Ok(engine) } else { Err("merit, hitting or ppr is wanted".to_owned()) }
    }

    fn flag(self) -> Result<bool, String> {
        match self {
            Self::Flag(flag) => Ok(flag),
            Self::Text(text) => text.trim().parse().map_err(|_| format!("`{text}`: true or false is wanted")),
            _ => Err("true or false is wanted".to_owned()),
        }
    }

    fn policy(self) -> Result<Policy, String> {
        match self.parsed::<String>()?.as_str() {
            "receipts" => Ok(Policy::Receipts),
            "none" => Ok(Policy::None),
            known @ ("flow" | "score" | "chain" | "claimed") => Err(format!(
                "the control policy `{known}` is not part of this version; receipts and none are"
            )),
            other => Err(format!("`{other}`: receipts or none is wanted")),
        }
    }
}

/// `4194304`, `4096 KiB`, `4MiB` or `1 GiB` in bytes.
pub(crate) fn parse_amount(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}`: a number of bytes is wanted, like 4194304 or 4 MiB");
    let text_trimmed = text.trim();
    let digits = text_trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(digits);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Outcome<Layered> {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text).expect("written");
        let flags: Vec<_> = flags.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        let env =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        Layered::load(&file, env, &flags)
    }

    #[test]
    fn a_later_layer_wins_and_the_source_is_remembered() {
        let file = "listen = \"10.0.0.1:1\"\napi = \"127.0.0.1:1\"\n[economy]\nstranger_bytes = 7\n";
        let env = [("FAIRSHARE_API", "127.0.0.1:2"), ("FAIRSHARE_LISTEN", "10.0.0.1:2")];
        let layered = load(file, &env, &[("listen", "10.0.0.1:3")]).expect("loads");
        assert_eq!(layered.config.listen.port(), 3);
        assert_eq!(layered.config.api.port(), 2);
        assert_eq!(layered.config.stranger_bytes, 7);
        let json = layered.to_json();
        assert_eq!(json["listen"]["source"], "flag");
        assert_eq!(json["api"]["source"], "env");
        assert_eq!(json["economy.stranger_bytes"], json!({ "value": 7, "source": "file" }));
        assert_eq!(json["economy.policy"], json!({ "value": "receipts", "source": "default" }));
    }

    #[test]
    fn a_missing_file_is_no_error() {
        let layered = Layered::load(Path::new("/nowhere/config.toml"), |_| None, &[]).expect("loads");
        assert_eq!(layered.config, Config::default());
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let failure =
            load("listen = \"0.0.0.0:0\"\n\n[economy]\nstranger = 4\n", &[], &[]).expect_err("unknown");
        assert!(failure.what.contains("line 4: unknown key `economy.stranger`"), "{}", failure.what);
        let failure = load("stranger_bytes = 4\n", &[], &[]).expect_err("wrong table");
        assert!(failure.what.ends_with("did you mean `economy.stranger_bytes`?"), "{}", failure.what);
    }

    #[test]
    fn a_wrong_value_is_an_error_with_its_line() {
        for (text, wanted) in [
            ("\nlisten = 5\n", "line 2: listen: a text is wanted"),
            ("listen = \"nowhere\"", "line 1: listen: `nowhere`"),
            ("[economy]\nstranger_bytes = -1", "line 2: economy.stranger_bytes: a whole number"),
            ("[economy]\nfriends = [\"00\"]", "line 2: economy.friends: `00`: a key has 74 bytes"),
            ("[economy]\npolicy = \"flow\"", "not part of this version"),
            ("api = \"0.0.0.0:80\"", "loopback only"),
            ("[swarm]\nslots = 65", "at most 64 slots"),
            ("[tunnel]\nsocks_port = 65534", "up to 65533"),
            ("[payouts]\nepoch_s = 0", "1 to 2592000 seconds"),
            ("[trust]\nengine = \"netflow\"", "merit, hitting or ppr"),
            ("[swarm\n", "line 1"),
        ] {
            let failure = load(text, &[], &[]).expect_err(text);
            assert!(failure.what.contains(wanted), "{text:?} gives {}", failure.what);
        }
    }

    #[test]
    fn lists_and_amounts_are_read_from_text() {
        let env =
            [("FAIRSHARE_LEDGER_COUNTERSIGN", "test, other"), ("FAIRSHARE_ECONOMY_STRANGER_BYTES", "40 MiB")];
        let config = load("", &env, &[]).expect("loads").config;
        assert_eq!(config.countersign, ["test", "other"]);
        assert_eq!(config.stranger_bytes, 40 << 20);
        assert_eq!(parse_amount("3KiB"), Ok(3072));
        assert!(parse_amount("99999999999 GiB").is_err());
        assert!(parse_amount("-1").is_err());
    }
}
