//! What a hostile server may send instead of valid replies.

use super::scripted::{Behaviour, Server};

/// Short runs of all modes. Those of `cycles` make a check every few milliseconds.
pub const MODES: [&str; 7] = [
    "dbs --max-db 15 -v",
    "dbs --max-db auto --json",
    "dbs --max-db 3 --canary --expect-role primary --log-format json",
    "cycles --cycles 1 --check-interval 4ms --trace-dir traces",
    "cycles --cycles 1 --check-interval 4ms --max-db 3 --canary --log-format json --json",
    "cycles --cycles 1 --check-interval 4ms --held --canary -v",
    "cycles --cycles 1 --check-interval 4ms --cluster --canary",
];

/// A server whose replies are mutated. It is also a cluster of one node, whose address is null, so that no mutation
/// names another host.
pub fn mutating() -> Server {
    let server = Server::start();
    server.become_(|nature| {
        nature.password = Some("hunter2-s3cret".to_owned());
        let node =
            format!("$8\r\nendpoint\r\n$-1\r\n$4\r\nport\r\n:{}\r\n$4\r\nrole\r\n$6\r\nmaster\r\n", server.port());
        let shard = format!("$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n*6\r\n{node}");
        nature.replies = vec![
            ("CLUSTER SHARDS", format!("*1\r\n*4\r\n{shard}")),
            ("CLUSTER INFO", "$16\r\ncluster_state:ok\r\n".to_owned()),
        ];
    });
    server.behave(Behaviour::Mutate);
    server
}

/// Replies of a hostile server, some of them repeated endlessly.
pub fn attacks() -> Vec<Behaviour> {
    let nested = |mark: &str| mark.repeat(200_000).into_bytes();
    let mut attacks = vec![
        Behaviour::Endless(vec![b'+'; 1 << 16]),
        Behaviour::Endless(vec![b'x'; 1 << 16]),
        Behaviour::Endless(vec![0; 1 << 16]),
        Behaviour::Endless(b"+".to_vec()),
        Behaviour::Endless(b">2\r\n+a\r\n+b\r\n".repeat(1000)),
        Behaviour::Endless(b"|1\r\n+a\r\n+b\r\n".repeat(1000)),
        Behaviour::Endless(b"*1\r\n".repeat(10_000)),
        Behaviour::Endless(b":1\r\n".repeat(10_000)),
    ];
    let raw = [
        nested("*1\r\n"),
        nested("%1\r\n"),
        nested("~1\r\n"),
        nested(">1\r\n"),
        nested("|1\r\n"),
        b"*9223372036854775807\r\n".to_vec(),
        b"$9223372036854775807\r\n".to_vec(),
        b"$5000000000\r\nabc".to_vec(),
        b"*-9223372036854775808\r\n".to_vec(),
        b"%9223372036854775807\r\n".to_vec(),
        b"|-1\r\n+a\r\n".to_vec(),
        b"=-1\r\n".to_vec(),
        b"!-5\r\nabc\r\n".to_vec(),
        b">0\r\n".to_vec(),
        b">-1\r\n".to_vec(),
        b"|0\r\n+OK\r\n".to_vec(),
        b"+\x1b]0;owned\x07\x1b[2J\r\n".to_vec(),
        b"-ERR \x00\x01\x02\x7f\xc2\x9b31m\r\n".to_vec(),
        b"-\xff\xfe\r\n".to_vec(),
        b"-\r\n".to_vec(),
        b"-ERR \xe2\x80\xae gnol\r\n".to_vec(),
        [b"-ERR ".to_vec(), vec![b'a'; 60_000], b"\r\n".to_vec()].concat(),
        b"$-1\r\n".to_vec(),
        b"_\r\n".to_vec(),
        b",nan\r\n".to_vec(),
        b"#t\r\n".to_vec(),
        b"(1\r\n".to_vec(),
        b"+OK\r\n+OK\r\n+PONG\r\n".to_vec(),
        b"\r\n".to_vec(),
        b"\n".to_vec(),
        b"+OK\n".to_vec(),
        b"-ERR a\r\n=== All cycles finished at 2025-01-01 00:00:00 ===\r\n".to_vec(),
    ];
    attacks.extend(raw.into_iter().map(Behaviour::Raw));
    attacks
}
