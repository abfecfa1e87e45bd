//! What a cell costs in each role. Measured only when asked for, and with optimisation:
//! `FAIRSHARE_TUNNEL_COST=1 cargo test -p fairshare-tunnel --release --test ring -- --nocapture cost`.

use crate::world::{GROUP, HOST, World, datagram, spec};
use bytes::Bytes;
use fairshare_tunnel::{GroupSpec, TunnelOutput};
use fairshare_wire::Address;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Cells of one measurement, and measurements; the replay window must not be the only thing that is warm.
const CELLS: u32 = 2_000;
const ROUNDS: u32 = 20;

/// What a node sends out.
fn sent(world: &mut World, node: usize) -> Vec<Bytes> {
    let mut cells = Vec::new();
    while let Some(output) = world.nodes[node].tunnel.poll() {
        match output {
            TunnelOutput::Transmit { bytes, .. } | TunnelOutput::ExitSend { bytes, .. } => cells.push(bytes),
            _ => {}
        }
    }
    cells
}

/// Hands cells to a node and measures until it has put out what becomes of them.
fn pass(
    world: &mut World,
    from: SocketAddr,
    node: usize,
    cells: &[Bytes],
    spent: &mut Duration,
) -> Vec<Bytes> {
    let began = Instant::now();
    for cell in cells {
        world.nodes[node].tunnel.handle_datagram(world.now, from, cell);
    }
    let out = sent(world, node);
    *spent += began.elapsed();
    out
}

#[test]
fn a_cell_passes_every_role_and_its_cost_is_told_if_asked_for() {
    let measuring = std::env::var_os("FAIRSHARE_TUNNEL_COST").is_some();
    let rounds = if measuring { ROUNDS } else { 1 };
    let mut world = World::town(2, 1);
    let path = [1, 2, 3].map(|node| world.key(node)).to_vec();
    world.open(GroupSpec { path: Some(path), ..spec(3) });
    assert!(world.echoed(&datagram(0, 1_400)));
    let at = [0, 1, 2, 3].map(|node: usize| world.nodes[node].address);
    let (to, payload) = (Address::Ip(HOST), datagram(1, 1_400));
    let mut spent = [Duration::ZERO; 8];
    let exit = world.nodes[3].exits[0];
    for round in 0..rounds {
        world.run(Duration::from_millis(500));
        let began = Instant::now();
        for _ in 0..CELLS {
            world.nodes[0].tunnel.send(world.now, GROUP, &to, &payload);
        }
        let cells = sent(&mut world, 0);
        spent[0] += began.elapsed();
        let cells = pass(&mut world, at[0], 1, &cells, &mut spent[1]);
        let cells = pass(&mut world, at[1], 2, &cells, &mut spent[2]);
        let left = pass(&mut world, at[2], 3, &cells, &mut spent[3]);
        assert_eq!(left.len(), CELLS as usize, "round {round}");
        let began = Instant::now();
        for data in &left {
            world.nodes[3].tunnel.exit_datagram(world.now, exit, HOST, data);
        }
        let cells = sent(&mut world, 3);
        spent[4] += began.elapsed();
        let cells = pass(&mut world, at[3], 2, &cells, &mut spent[5]);
        let cells = pass(&mut world, at[2], 1, &cells, &mut spent[6]);
        pass(&mut world, at[1], 0, &cells, &mut spent[7]);
    }
    let roles = [
        "originator sends",
        "hop 1 forward",
        "hop 2 forward",
        "exit lets out",
        "exit takes in",
        "hop 2 backward",
        "hop 1 backward",
        "originator receives",
    ];
    for (role, spent) in roles.iter().zip(spent).filter(|_| measuring) {
        let nanos = spent.as_nanos() / u128::from(CELLS * rounds);
        println!("{role:20} {nanos:6} ns a cell, {} us a MB", nanos * 1_000 / 1_400);
    }
}
