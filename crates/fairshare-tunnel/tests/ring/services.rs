//! What exits do besides: names, HTTP, speed tests, and what they refuse.

use crate::world::{GROUP, HOST, OURS, World, datagram, exit, plain, spec, user};
use bytes::Bytes;
use fairshare_tunnel::{Flags, GroupSpec, TunnelConfig, TunnelEvent};
use fairshare_wire::Address;
use std::time::Duration;

//= spec/tunnels.md#7-exit
#[test]
fn a_name_is_resolved_at_the_exit_and_ipv4_is_preferred() {
    let mut world = World::town(2, 1);
    let v6 = "[2606:4700::1111]:6881".parse().expect("an address");
    world.names.insert("tracker.example".into(), vec![v6, HOST]);
    world.names.insert("inside.example".into(), vec!["10.0.0.1:6881".parse().expect("an address")]);
    world.open(spec(2));
    for host in ["tracker.example", "inside.example", "nowhere.example"] {
        world.send_to(&Address::Host(host.into(), 6_881), &datagram(1, 100));
        world.run(Duration::from_millis(300));
    }
    let to: Vec<_> = world.left.iter().map(|departure| departure.to).collect();
    assert_eq!(to, [HOST]);
    assert_eq!(world.nodes[0].received.len(), 1);
}

//= spec/tunnels.md#2-cell
#[test]
fn what_fits_no_cell_is_refused_where_it_begins() {
    let mut world = World::town(2, 1);
    world.open(spec(2));
    for len in [2_048, 9_000, 70_000] {
        world.send(HOST, &datagram(1, len));
    }
    assert_eq!(world.refused(0, "cell that is too long"), 3);
    let endless = Address::Host("a".repeat(70_000), 80);
    world.send_to(&endless, &datagram(1, 100));
    assert_eq!(world.refused(0, "host name that is too long"), 1);
    let node = &mut world.nodes[0].tunnel;
    node.http(world.now, 7, GROUP, endless, Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n"));
    world.drain(0);
    assert!(world.saw(0, |event| matches!(event, TunnelEvent::HttpAnswered { ticket: 7, result: Err(_) })));
    assert!(world.echoed(&datagram(2, 1_400)), "the circuit lives");
}

//= spec/tunnels.md#7-exit
#[test]
fn what_must_not_leave_does_not_leave() {
    let mut world = World::town(2, 1);
    world.open(spec(2));
    for to in ["10.0.0.1:6881", "127.0.0.1:6881", "224.0.0.1:6881", "0.0.0.0:0", "8.8.8.8:25", "[::1]:6881"] {
        world.send(to.parse().expect("an address"), &datagram(1, 100));
    }
    for data in [b"GET / HTTP/1.1\r\n\r\n, which is no BitTorrent".as_slice(), &[0xff; 100], b"x"] {
        world.send(HOST, data);
    }
    world.run(Duration::from_secs(1));
    assert!(world.left.is_empty(), "{:?}", world.left);
    assert!(world.echoed(&datagram(2, 100)), "the circuit lives");
}

//= spec/tunnels.md#7-exit
#[test]
fn what_comes_from_outside_must_pass_too() {
    let mut world = World::town(2, 1);
    world.open(spec(2));
    assert!(world.echoed(&datagram(1, 100)));
    let exit = world.nodes[3].exits[0];
    world.nodes[3].tunnel.exit_datagram(world.now, exit, HOST, b"an advertisement");
    world.nodes[3].tunnel.exit_datagram(world.now, exit, HOST, &datagram(2, 50));
    world.drain(3);
    world.run(Duration::from_millis(300));
    let got: Vec<Bytes> = world.nodes[0].received.drain(..).map(|(.., data)| data).collect();
    assert_eq!(got, [Bytes::from(datagram(2, 50))]);
}

//= spec/tunnels.md#7-exit
#[test]
fn an_exit_that_is_none_lets_nothing_out() {
    let mut world = World::town(2, 0);
    let path = [1, 2].map(|node| world.key(node)).to_vec();
    world.open(GroupSpec { path: Some(path), need: Flags::RELAY, ..spec(2) });
    world.send(HOST, &datagram(1, 100));
    world.run(Duration::from_millis(300));
    assert!(world.left.is_empty() && world.nodes[2].exits.is_empty());
}

fn fetched(web: Result<Bytes, String>) -> Option<Result<Bytes, String>> {
    let mut world = World::town(2, 1);
    world.web = web;
    world.open(GroupSpec { need: Flags::EXIT_HTTP, ..spec(2) });
    let request = Bytes::from_static(b"GET /announce HTTP/1.1\r\n\r\n");
    let target = Address::Ip("1.1.1.1:80".parse().expect("an address"));
    world.nodes[0].tunnel.http(world.now, 5, GROUP, target, request);
    world.drain(0);
    world.run(Duration::from_secs(15));
    world.nodes[0].events.iter().find_map(|event| match event {
        TunnelEvent::HttpAnswered { ticket: 5, result } => Some(result.clone().map_err(str::to_owned)),
        _ => None,
    })
}

//= spec/tunnels.md#7-exit
#[test]
fn http_answers_come_whole_if_they_are_bencoded_or_a_redirection() {
    let page = |body: &str| Bytes::from(format!("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{body}"));
    let long = format!("d5:peers{}:{}e", 9_000, "p".repeat(9_000));
    for body in ["d8:intervali1800ee", "le", "i5e", "3:abc", &long] {
        assert_eq!(fetched(Ok(page(body))), Some(Ok(page(body))), "{} bytes", body.len());
    }
    let redirection = Bytes::from_static(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: x\r\n\r\n");
    assert_eq!(fetched(Ok(redirection.clone())), Some(Ok(redirection)));
    for body in ["<html>", "d8:intervali1800e", "i5", "d3:ab", "d", ""] {
        assert!(matches!(fetched(Ok(page(body))), Some(Err(_))), "{body}");
    }
    assert!(matches!(fetched(Err("refused".into())), Some(Err(_))));
}

//= spec/tunnels.md#7-exit
#[test]
fn the_first_data_must_come_from_where_the_create_came_from() {
    let mut world = World::new(vec![user(&[OURS]), exit(&[OURS])]);
    world.open(spec(1));
    world.tap.recording = true;
    world.nodes[1].offline = true;
    world.send(HOST, &datagram(1, 100));
    world.run(Duration::from_millis(100));
    world.nodes[1].offline = false;
    let (_, to, cell) = world.tap.datagrams.pop().expect("the cell");
    world.inject("203.0.113.5:7000".parse().expect("an address"), to, cell);
    world.run(Duration::from_millis(100));
    assert!(world.left.is_empty() && world.nodes[1].exits.is_empty());
    assert!(world.echoed(&datagram(2, 100)));
}

//= spec/tunnels.md#7-exit
#[test]
fn an_exit_sends_no_flood_to_one_destination() {
    let mut world = World::new(vec![user(&[OURS]), plain(&[OURS]), TunnelConfig { ..exit(&[OURS]) }]);
    world.echo = false;
    world.open(spec(2));
    for number in 0..60_000 {
        world.send(HOST, &datagram(number, 20));
    }
    world.run(Duration::from_millis(500));
    assert!(world.left.len() < 60_000, "{} datagrams in half a second", world.left.len());
    assert!(!world.left.is_empty());
}
