//! A scripted name server on port 53 of an address of its own. All names have the address 127.0.0.1.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A running name server. It stops on drop.
pub struct NameServer {
    address: Ipv4Addr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    silent: AtomicBool,
    /// The most packets that are answered per second; 0 for any number.
    limit: AtomicU32,
    queries: AtomicU64,
    ended: AtomicBool,
}

impl NameServer {
    /// Listens. None if this user may not listen on port 53.
    pub fn start() -> Option<Self> {
        for _ in 0..100 {
            // Any address in 127.0.0.0/8 is local. A random one is free.
            let [a, b, c, ..] = std::process::id().wrapping_mul(2_654_435_761).to_le_bytes();
            let salt = NEXT.fetch_add(1, Ordering::Relaxed) as u8;
            let address = Ipv4Addr::new(127, a | 1, b ^ salt, c | 1);
            let socket = match UdpSocket::bind((address, 53)) {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
                Err(_) => continue,
            };
            let shared = Arc::<Shared>::default();
            let server = shared.clone();
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            thread::spawn(move || serve(&server, &socket));
            return Some(NameServer { address, shared });
        }
        panic!("no address for a name server");
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Shell commands that make it the only source of names, in a mount namespace.
    pub fn setup(&self) -> String {
        format!(
            "printf 'nameserver {}\\n' > resolv; mount --bind resolv /etc/resolv.conf; \
             echo hosts: dns > nsswitch; mount --bind nsswitch /etc/nsswitch.conf",
            self.address
        )
    }

    pub fn be_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Answers at most this many packets per second.
    pub fn limit(&self, packets: u32) {
        self.shared.limit.store(packets, Ordering::SeqCst);
    }

    /// How many queries were received.
    pub fn queries(&self) -> u64 {
        self.shared.queries.load(Ordering::SeqCst)
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
    }
}

fn serve(shared: &Shared, socket: &UdpSocket) {
    let mut query = [0; 1500];
    let (mut second, mut answered) = (Instant::now(), 0);
    while !shared.ended.load(Ordering::SeqCst) {
        let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
        shared.queries.fetch_add(1, Ordering::SeqCst);
        if second.elapsed() >= Duration::from_secs(1) {
            (second, answered) = (Instant::now(), 0);
        }
        let limit = shared.limit.load(Ordering::SeqCst);
        if shared.silent.load(Ordering::SeqCst) || (limit > 0 && answered >= limit) {
            continue;
        }
        answered += 1;
        answer(socket, &query[..length], client);
    }
}

/// Answers a query for one name (RFC 1035, section 4).
fn answer(socket: &UdpSocket, query: &[u8], client: SocketAddr) {
    let Some(question) = query.get(12..) else { return };
    let Some(end) = question.iter().position(|byte| *byte == 0) else { return };
    let Some(&[_, kind, ..]) = question.get(end + 1..end + 5) else { return };

    let is_a = kind == 1;
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    reply.extend(&question[..end + 5]);
    if is_a {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    let _ = socket.send_to(&reply, client);
}
