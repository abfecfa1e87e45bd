//! The command line: what can be typed. What it does stands in `commands`.

use clap::{Args, Parser, Subcommand};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;

/// Share files; take as you give. Peers keep signed accounts of real bytes with each other, no server needed.
#[derive(Debug, Parser)]
#[command(name = "fairshare", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node in the foreground, with its API and page
    Run(Run),
    /// Play the whole economy on this machine: sixteen real nodes, in about a minute
    Demo(Demo),
    /// Make a .torrent file of a file or folder
    Create(Create),
    /// Download a torrent and stop when every piece is verified and written
    Get(Get),
    /// Serve a torrent from files that exist
    Seed(Seed),
    /// Give a running node a torrent to download
    Add(Add),
    /// The torrents of a running node
    List(Client),
    /// Stop a torrent's traffic, settling what is owed
    Pause(OneTorrent),
    /// Start a paused torrent again
    Resume(OneTorrent),
    /// Forget a torrent
    Remove(Remove),
    /// Who the running node is and how it does
    Status(Client),
    /// Balance and payments
    #[command(subcommand)]
    Tokens(Tokens),
    /// Chains of half blocks
    #[command(subcommand)]
    Chain(Chain),
    /// Other nodes in the overlay
    #[command(subcommand)]
    Peers(Peers),
    /// Anonymous circuits of the running node
    #[command(subcommand)]
    Circuits(Circuits),
    /// Whether circuits of others pass through the running node or end there
    #[command(subcommand)]
    Relay(Relay),
    /// Reputation: how others stand with this node, and why
    #[command(subcommand)]
    Trust(Trust),
    /// The configuration with the source of each value
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run complete nodes on a virtual network with faults; one seed gives one digest
    Sim(Sim),
    /// Bare engine for comparison with other clients: no identity, no overlay
    #[command(subcommand)]
    BtBench(BtBench),
}

impl Command {
    /// Whether a program reads what is printed, so that it gets failures as JSON too.
    pub(crate) const fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Demo(args) => args.json,
            Self::Create(args) => args.json,
            Self::Get(args) => args.client.json,
            Self::Seed(args) => args.client.json,
            Self::Add(args) => args.client.json,
            Self::Pause(args) | Self::Resume(args) => args.client.json,
            Self::Remove(args) => args.client.json,
            Self::List(options)
            | Self::Status(options)
            | Self::Tokens(Tokens::Balance(options))
            | Self::Chain(Chain::Proofs(options))
            | Self::Tokens(Tokens::Payouts(options))
            | Self::Circuits(Circuits::List(options))
            | Self::Relay(Relay::Status(options) | Relay::Off(options))
            | Self::Trust(Trust::Proofs(options))
            | Self::Peers(Peers::List(options)) => options.json,
            Self::Tokens(Tokens::History(args)) => args.client.json,
            Self::Circuits(Circuits::Build(args)) => args.client.json,
            Self::Circuits(Circuits::Test(args)) => args.client.json,
            Self::Circuits(Circuits::Close(args)) => args.client.json,
            Self::Relay(Relay::On(args)) => args.client.json,
            Self::Trust(Trust::Show(args)) => args.client.json,
            Self::Trust(Trust::Explain(args)) => args.client.json,
            Self::Trust(Trust::Score(args)) => args.json,
            Self::Chain(Chain::Show(args)) => args.client.json,
            Self::Chain(Chain::Verify(args)) => args.client.json,
            Self::Chain(Chain::Propose(args)) => args.client.json,
            Self::Config(ConfigCommand::Show(args) | ConfigCommand::Check(args)) => args.json,
            Self::Sim(args) => args.json,
            Self::BtBench(_) => false,
        }
    }
}

/// How a command finds the running node.
#[derive(Clone, Debug, Args)]
pub(crate) struct Client {
    /// Data folder of the node [default: $FAIRSHARE_DATA or ~/.local/share/fairshare]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address of the API instead of a data folder on this machine
    #[arg(long = "api", value_name = "URL", requires = "token_file")]
    pub(crate) url: Option<String>,
    /// File with the API's token; goes with --api
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Data folder of the node [default: $FAIRSHARE_DATA or ~/.local/share/fairshare]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Configuration file [default: DIR/config.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// UDP and TCP address; port 0 picks one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddrV4>,
    /// An overlay address to begin with; may be given several times
    #[arg(long = "peer", value_name = "IP:PORT")]
    pub(crate) peers: Vec<SocketAddr>,
    /// Do not ask the public introduction servers
    #[arg(long)]
    pub(crate) no_bootstrap: bool,
    /// Address of the HTTP API; port 0 picks one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) api: Option<SocketAddr>,
    /// Keep the identity file encrypted with the passphrase that open file descriptor N gives (its first line)
    #[arg(long, value_name = "N")]
    pub(crate) passphrase_fd: Option<u32>,
    /// Print one JSON object when ready
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Give up after this time; without --check the page also stays until then
    #[arg(long, value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub(crate) minutes: u64,
    /// Names, keys and contents of the story
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// End as soon as the story is over
    #[arg(long)]
    pub(crate) check: bool,
    /// Print the receipt as one JSON object on the last line, nothing else on stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// Number of nodes; the story is written for 16
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(16..=16))]
    pub(crate) nodes: u64,
    /// Do not open a browser
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Keep all data in this folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Share the files of this folder instead of random ones
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The file or folder
    pub(crate) path: PathBuf,
    /// Address of a tracker; may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) tracker: Vec<String>,
    /// Bytes of a piece, a power of two from 16 KiB to 16 MiB [default: chosen by size]
    #[arg(long, value_name = "BYTES", value_parser = crate::config::parse_amount)]
    pub(crate) piece_size: Option<u64>,
    /// The file to write [default: NAME.torrent here]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// A magnet link or a .torrent file
    #[arg(value_name = "MAGNET|FILE")]
    pub(crate) torrent: String,
    /// Where the files go [default: the node's downloads, or here without a node]
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Address of somebody who has it; may be given several times
    #[arg(long = "peer", value_name = "IP:PORT")]
    pub(crate) peers: Vec<SocketAddr>,
    #[command(flatten)]
    pub(crate) way: Way,
    /// An overlay address to begin with when no node runs; may be given several times
    #[arg(long = "node", value_name = "IP:PORT")]
    pub(crate) nodes: Vec<SocketAddr>,
    /// Give up after this time
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct Seed {
    /// The .torrent file
    pub(crate) torrent: PathBuf,
    /// The folder that holds the torrent's file or folder
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// UDP and TCP address of the temporary node when none runs; port 0 picks one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddrV4>,
    /// Address of somebody who may want it; may be given several times
    #[arg(long = "peer", value_name = "IP:PORT")]
    pub(crate) peers: Vec<SocketAddr>,
    #[command(flatten)]
    pub(crate) way: Way,
    /// An overlay address to begin with when no node runs; may be given several times
    #[arg(long = "node", value_name = "IP:PORT")]
    pub(crate) nodes: Vec<SocketAddr>,
    #[command(flatten)]
    pub(crate) client: Client,
}

/// How the traffic of a torrent goes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Way {
    /// Through circuits of N relays, the exit included; nothing of the torrent travels beside them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub(crate) hops: Option<u8>,
    /// From end to end inside the overlay, to peers that are hidden too; 1 hop unless --hops says more
    #[arg(long)]
    pub(crate) hidden: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// A magnet link or a .torrent file
    #[arg(value_name = "MAGNET|FILE")]
    pub(crate) torrent: String,
    /// Where the files go [default: the node's downloads]
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Address of somebody who has it; may be given several times
    #[arg(long = "peer", value_name = "IP:PORT")]
    pub(crate) peers: Vec<SocketAddr>,
    #[command(flatten)]
    pub(crate) way: Way,
    /// Stay until every piece is verified and written
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct OneTorrent {
    /// The torrent's hash, 40 hex digits
    #[arg(value_name = "HASH")]
    pub(crate) torrent: String,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The torrent's hash, 40 hex digits
    #[arg(value_name = "HASH")]
    pub(crate) torrent: String,
    /// Delete its files too
    #[arg(long)]
    pub(crate) delete_data: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// What was given and taken, in all and with each peer
    Balance(Client),
    /// The payments on the own chain, newest first
    History(History),
    /// What is owed to relays and by those that use this node as one
    Payouts(Client),
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Chain {
    /// The blocks of a chain
    Show(ChainShow),
    /// Judge a chain as far as it is stored
    Verify(ChainOf),
    /// Sign a proposal to a peer
    Propose(Propose),
    /// Proofs of forks: two blocks with one number
    Proofs(Client),
}

#[derive(Debug, Args)]
pub(crate) struct ChainShow {
    /// A public key in hex, or me
    #[arg(value_name = "KEYHEX|me")]
    pub(crate) key: String,
    /// First number
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) from: u32,
    /// Last number [default: all]
    #[arg(long, value_name = "M")]
    pub(crate) to: Option<u32>,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct ChainOf {
    /// A public key in hex, or me
    #[arg(value_name = "KEYHEX|me")]
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct Propose {
    /// Public key of the counterparty in hex
    #[arg(long, value_name = "KEYHEX")]
    pub(crate) to: String,
    /// Type of the block
    #[arg(long = "type", value_name = "T")]
    pub(crate) kind: String,
    /// The transaction: a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) transaction: String,
    /// Wait so long for the counterparty's agreement
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u64>,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Peers {
    /// The verified peers
    List(Client),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Circuits {
    /// The circuits with their paths, and what passes through this node for others
    List(Client),
    /// Build a circuit and keep it until it is closed
    Build(CircuitBuild),
    /// Build a circuit, measure how fast it carries, close it
    Test(CircuitTest),
    /// Close a circuit; a torrent builds itself another one
    Close(CircuitClose),
}

/// Which circuit is wanted.
#[derive(Clone, Debug, Args)]
pub(crate) struct Path {
    /// Relays on the way, the exit included
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub(crate) hops: u8,
    /// The relays themselves, first to last, by their tunnel keys in hex
    #[arg(long, value_name = "KEY,KEY,..", value_delimiter = ',', conflicts_with = "hops")]
    pub(crate) path: Vec<String>,
    /// Give up after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CircuitBuild {
    #[command(flatten)]
    pub(crate) path: Path,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct CircuitTest {
    #[command(flatten)]
    pub(crate) path: Path,
    /// Bytes to receive from the last relay
    #[arg(long, value_name = "BYTES", default_value = "4 MiB", value_parser = crate::config::parse_amount)]
    pub(crate) bytes: u64,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct CircuitClose {
    /// The circuit's number, as `circuits list` shows it
    pub(crate) circuit: u32,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Relay {
    /// Let circuits of others pass
    On(RelayOn),
    /// Let no new circuits of others pass
    Off(Client),
    /// What passes now
    Status(Client),
}

#[derive(Debug, Args)]
pub(crate) struct RelayOn {
    /// Let BitTorrent traffic leave circuits here too: others then see this node's address as its source
    #[arg(long)]
    pub(crate) exit: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Trust {
    /// The keys that stand best
    Show(TrustShow),
    /// Why a key stands as it does
    Explain(ChainOf),
    /// Scores on any graph, without a node
    Score(TrustScore),
    /// Proofs of forks, whose makers score nothing
    Proofs(Client),
}

#[derive(Debug, Args)]
pub(crate) struct TrustShow {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct TrustScore {
    /// The graph: one edge a line, `u v weight` (u received so much from v), or the binary form u32 n, u32 m, m x (u, v, time)
    #[arg(long, value_name = "F")]
    pub(crate) graph: PathBuf,
    /// The node whose view it is
    #[arg(long, value_name = "N")]
    pub(crate) ego: u32,
    /// The engine
    #[arg(long, value_name = "NAME", default_value = "merit")]
    pub(crate) engine: String,
    /// By linear algebra instead of random walks
    #[arg(long)]
    pub(crate) exact: bool,
    /// Seed of the random walks [default: the system's randomness]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// At most so many nodes, best first [default: all that score]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Print one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every key, its value and where it came from
    Show(ConfigArgs),
    /// Read the file and say whether it is right
    Check(ConfigArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Data folder of the node [default: $FAIRSHARE_DATA or ~/.local/share/fairshare]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Configuration file [default: DIR/config.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// The seed of the first world
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// So many worlds, with the seeds that follow
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) worlds: u64,
    /// After a failure show what happened from this virtual second on
    #[arg(long, value_name = "T", default_value_t = 0)]
    pub(crate) from: u64,
    /// Print one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BtBench {
    /// Serve a torrent until SIGTERM
    Seed(BenchArgs),
    /// Download a torrent, then serve it until SIGTERM
    Down(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The .torrent file
    #[arg(long, value_name = "F")]
    pub(crate) torrent: PathBuf,
    /// The folder that holds, or will hold, its files
    #[arg(long, value_name = "D")]
    pub(crate) dir: PathBuf,
    /// TCP address; port 0 picks one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddrV4,
    /// Created when serving, or when all is verified and written
    #[arg(long, value_name = "FILE")]
    pub(crate) ready: PathBuf,
    /// Open streams over uTP, never over TCP
    #[arg(long)]
    pub(crate) utp_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_url_needs_a_token_file() {
        assert!(Cli::try_parse_from(["fairshare", "status", "--api", "http://127.0.0.1:1"]).is_err());
        assert!(
            Cli::try_parse_from(["fairshare", "status", "--api", "http://127.0.0.1:1", "--token-file", "t"])
                .is_ok()
        );
    }
}
