//! HTTP exchanges of circuits: the request goes out as it came in, the answer comes back as it is. A proxy would
//! rewrite them; this one only knows where an answer ends.
//= spec/tunnels.md#7-exit

use crate::Answer;
use bytes::Bytes;
use fairshare_swarm::Completion;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Exchanges at the same time, of all circuits together.
const FETCHES_MAX: usize = 64;
/// A whole exchange takes no longer.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
const HEADER_MAX: usize = 64 << 10;
const BODY_MAX: usize = 1 << 20;
const READ_LEN: usize = 16 << 10;
const HEADER_END: &[u8] = b"\r\n\r\n";
/// The end of a body in chunks without trailers.
const CHUNKS_END: &[u8] = b"0\r\n\r\n";

/// Carries the exchanges out.
pub(crate) struct Fetcher {
    own: Ipv4Addr,
    places: Arc<Semaphore>,
    answer: Answer,
    runtime: Handle,
}

impl Fetcher {
    pub(crate) fn new(own: Ipv4Addr, answer: &Answer, runtime: Handle) -> Self {
        Self { own, places: Arc::new(Semaphore::new(FETCHES_MAX)), answer: answer.clone(), runtime }
    }

    /// Begins an exchange; the answer comes as a completion.
    pub(crate) fn fetch(&self, ticket: u64, target: SocketAddr, request: Bytes) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let reason = "too many requests are under way already".to_owned();
            return (self.answer)(vec![(ticket, Completion::Fetched(Err(reason)))]);
        };
        let (own, answer) = (self.own, self.answer.clone());
        self.runtime.spawn(async move {
            let exchange = tokio::time::timeout(EXCHANGE_MAX, exchange(own, target, &request)).await;
            let result = exchange.unwrap_or_else(|_| Err("timed out".to_owned()));
            drop(place);
            answer(vec![(ticket, Completion::Fetched(result))]);
        });
    }
}

async fn exchange(own: Ipv4Addr, target: SocketAddr, request: &[u8]) -> Result<Bytes, String> {
    let mut stream = connect(own, target).await.map_err(|error| error.to_string())?;
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while !is_whole(&answer)? {
        let mut part = [0; READ_LEN];
        let len = stream.read(&mut part).await.map_err(|error| error.to_string())?;
        if len == 0 {
            return if header_len(&answer).is_some() {
                Ok(answer.into())
            } else {
                Err("the answer ended in its header".to_owned())
            };
        }
        answer.extend_from_slice(part.get(..len).unwrap_or_default());
    }
    Ok(answer.into())
}

async fn connect(own: Ipv4Addr, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if target.is_ipv4() && !own.is_unspecified() {
        socket.bind(SocketAddr::from((own, 0)))?;
    }
    socket.connect(target).await
}

/// Whether `answer` says of itself that nothing more comes. An answer without a length ends with its connection.
fn is_whole(answer: &[u8]) -> Result<bool, String> {
    let Some(header_len) = header_len(answer) else {
        return if answer.len() > HEADER_MAX { Err("the header is too long".to_owned()) } else { Ok(false) };
    };
    let (header, body) = answer.split_at(header_len);
    if body.len() > BODY_MAX {
        return Err("the answer is too long".to_owned());
    }
    if let Some(length) = field(header, b"content-length") {
        let length = std::str::from_utf8(length).ok().and_then(|text| text.trim().parse::<usize>().ok());
        return match length {
            Some(length) if length > BODY_MAX => Err("the answer is too long".to_owned()),
            length => Ok(length.is_some_and(|length| body.len() >= length)),
        };
    }
    let chunked = field(header, b"transfer-encoding").is_some();
    Ok(chunked && (body == CHUNKS_END || body.ends_with(b"\r\n0\r\n\r\n")))
}

/// Length of the header with its blank line.
pub(crate) fn header_len(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(HEADER_END.len()).position(|window| window == HEADER_END)?;
    Some(at + HEADER_END.len())
}

/// The value of a field of a header; its name is in lower case.
pub(crate) fn field<'a>(header: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    header.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (key, value) = line.split_at_checked(colon)?;
        key.eq_ignore_ascii_case(name).then(|| value.strip_prefix(b":").unwrap_or(value).trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that reads the request, writes `parts` one by one, and keeps the connection or closes it.
    async fn server(parts: Vec<Vec<u8>>, closes: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = [0; 1_024];
            let len = stream.read(&mut request).await.expect("a request");
            assert_eq!(&request[..len], REQUEST);
            for part in parts {
                // The client may hang up early: that is what one of the tests is about.
                let _ = stream.write_all(&part).await;
            }
            if !closes {
                std::future::pending::<()>().await;
            }
        });
        address
    }

    const REQUEST: &[u8] = b"GET /announce HTTP/1.1\r\nHost: tracker\r\n\r\n";

    async fn fetched(parts: &[&[u8]], closes: bool) -> Result<Bytes, String> {
        let target = server(parts.iter().map(|part| part.to_vec()).collect(), closes).await;
        let exchange = exchange(Ipv4Addr::LOCALHOST, target, REQUEST);
        tokio::time::timeout(EXCHANGE_MAX, exchange).await.expect("an end")
    }

    //= spec/tunnels.md#7-exit
    #[tokio::test]
    async fn an_answer_ends_where_it_says_or_with_its_connection() {
        let long: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nCONTENT-length: 4\r\n", b"\r\nde", b"de"];
        let whole = Bytes::from(long.concat());
        assert_eq!(fetched(long, false).await, Ok(whole));
        let chunked: &[&[u8]] =
            &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n", b"0\r\n\r\n"];
        assert_eq!(fetched(chunked, false).await, Ok(Bytes::from(chunked.concat())));
        let closed: &[&[u8]] = &[b"HTTP/1.0 200 OK\r\n\r\n", b"de"];
        assert_eq!(fetched(closed, true).await, Ok(Bytes::from(closed.concat())));
    }

    //= spec/tunnels.md#7-exit
    #[tokio::test]
    async fn long_answers_and_broken_ones_are_errors_in_words() {
        let said = fetched(&[b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"], false).await;
        assert_eq!(said, Err("the answer is too long".to_owned()));
        let body = vec![0; BODY_MAX + 1];
        let sent = fetched(&[b"HTTP/1.1 200 OK\r\n\r\n", &body], false).await;
        assert_eq!(sent, Err("the answer is too long".to_owned()));
        assert!(fetched(&[&vec![b'h'; HEADER_MAX + 1]], false).await.is_err());
        assert!(fetched(&[b"HTTP/1.1 200"], true).await.is_err());
        let free = TcpListener::bind("127.0.0.1:0").await.expect("loopback").local_addr().expect("bound");
        assert!(exchange(Ipv4Addr::LOCALHOST, free, REQUEST).await.is_err());
    }
}
