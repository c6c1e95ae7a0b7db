//! The reply path takes anything that a peer sends.

use std::fs;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::connection::Connection;
use crate::model::text::MAX_TEXT;

/// What real servers sent, to be broken in every way.
fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/replies");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Bytes at random, or a capture with some bytes changed, cut or repeated.
fn broken_replies() -> impl Strategy<Value = Vec<u8>> {
    let corpus = corpus();
    let mutated = (0..corpus.len(), proptest::collection::vec((any::<u16>(), any::<u8>(), 0..4u8), 0..8)).prop_map(
        move |(file, changes)| {
            let mut bytes = corpus[file].clone();
            for (at, byte, how) in changes {
                let at = usize::from(at) % bytes.len().max(1);
                match how {
                    0 if !bytes.is_empty() => bytes[at] = byte,
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at.min(bytes.len()), byte),
                    _ => bytes.extend_from_within(at.min(bytes.len())..),
                }
            }
            bytes
        },
    );
    let shaped = proptest::collection::vec(
        (prop::sample::select(&b"+-:$*%~|>_#,(=!"[..]), "[-0-9a-z ]{0,6}", any::<bool>()),
        0..12,
    )
    .prop_map(|parts| {
        let part = |(mark, text, end): &(u8, String, bool)| {
            [[*mark].as_slice(), text.as_bytes(), if *end { b"\r\n".as_slice() } else { b"" }].concat()
        };
        parts.iter().flat_map(part).collect()
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), mutated, shaped]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, it ends as replies and at last one failure, whose text is one printable line.
    #[test]
    fn the_reply_path_takes_anything(bytes in broken_replies()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let failure = runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(1 << 20);
            theirs.write_all(&bytes).await.unwrap();
            drop(theirs);
            let mut connection = Connection::over(ours);
            loop {
                if let Err(failure) = connection.reply().await {
                    return failure.to_string();
                }
            }
        });
        prop_assert!(failure.len() <= MAX_TEXT && !failure.contains(char::is_control), "{failure:?}");
    }
}
