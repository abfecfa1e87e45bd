//! A tracker that tells everybody of everybody, for benches on loopback.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Seconds until a client asks again; short, so that nobody waits for a peer that came a moment later.
const INTERVAL_S: u32 = 1;

/// Starts the tracker; it lives as long as the process. Its announce address.
pub(super) fn start() -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("tracker: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("tracker: {error}"))?;
    thread::spawn(move || {
        let mut known = BTreeSet::new();
        for stream in listener.incoming().flatten() {
            // A client that breaks off is its own affair.
            let _ = answer(stream, &mut known);
        }
    });
    Ok(format!("http://{address}/announce"))
}

fn answer(mut stream: TcpStream, known: &mut BTreeSet<SocketAddr>) -> std::io::Result<()> {
    let from = stream.peer_addr()?.ip();
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    if let Some(port) = announced_port(&request) {
        known.insert(SocketAddr::new(from, port));
    }
    let body = peers(known);
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

fn announced_port(request: &str) -> Option<u16> {
    let (_, query) = request.split(' ').nth(1)?.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("port="))?.parse().ok()
}

fn peers(known: &BTreeSet<SocketAddr>) -> Vec<u8> {
    let mut compact = Vec::new();
    for address in known {
        if let IpAddr::V4(ip) = address.ip() {
            compact.extend(ip.octets());
            compact.extend(address.port().to_be_bytes());
        }
    }
    let mut body = format!("d8:intervali{INTERVAL_S}e12:min intervali{INTERVAL_S}e5:peers{}:", compact.len())
        .into_bytes();
    body.extend(compact);
    body.push(b'e');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_and_peers_are_compact() {
        let request = "GET /announce?info_hash=%00&port=6881&left=0 HTTP/1.1\r\n";
        assert_eq!(announced_port(request), Some(6881));
        assert_eq!(announced_port("GET / HTTP/1.1"), None);
        let known = BTreeSet::from([SocketAddr::from(([127, 0, 0, 1], 258))]);
        assert_eq!(peers(&known), b"d8:intervali1e12:min intervali1e5:peers6:\x7f\0\0\x01\x01\x02e");
    }
}
