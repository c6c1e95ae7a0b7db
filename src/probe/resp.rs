//! The Redis protocol (RESP 2 and 3): commands to bytes, and bytes to replies.
//!
//! The redis crate's parser reads the replies. No other module uses that crate, so the rest of the code depends only on
//! the types of this one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use combine::parser::combinator::AnySendSyncPartialState;
use combine::stream::PointerOffset;
use redis::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, ReadBuf};

use crate::model::failure::{Failure, Kind};
use crate::model::secret::Secret;
use crate::model::text::MAX_TEXT;
use crate::probe::large_reply::{LargeReply, Turn};

/// The largest accepted reply, in bytes, except for a [`LargeReply`]. The longest reply to a check is that to
/// `INFO server`, with about 2,000 bytes. Checks overlap, so this bounds the memory that a hostile server can make
/// them use.
const MAX_REPLY: usize = 64 << 10;

/// How many bytes are read at once: enough for the replies of hundreds of databases, and little enough for thousands of
/// nodes at once. The parser's own buffer would begin with 64.
const READ_AHEAD: usize = 4 << 10;

/// A reply of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Ok,
    /// `+PONG`.
    Pong,
    /// Any other simple string.
    Simple(String),
    Error(ErrorReply),
    Int(i64),
    Bulk(Vec<u8>),
    /// A verbatim string of protocol 3, without its format.
    Verbatim(String),
    /// A null of any kind.
    Nil,
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    /// A value of a type that no check requests. The text is the name of the type, with its article.
    Other(&'static str),
}

impl Reply {
    /// Truncates the text of an error or a string where it begins to show `secret`: a server or a proxy may repeat what
    /// it was sent.
    pub fn redact(&mut self, secret: &Secret) {
        match self {
            Reply::Error(ErrorReply(text)) | Reply::Simple(text) => {
                if let Some(cut) = secret.cut_from(text) {
                    *text = cut;
                }
            }
            Reply::Bulk(bytes) => {
                if let Some(cut) = secret.cut_from(&String::from_utf8_lossy(bytes)) {
                    *bytes = cut.into_bytes();
                }
            }
            _ => {}
        }
    }

    /// The type of the reply, with its article.
    fn type_name(&self) -> &'static str {
        match self {
            Reply::Ok | Reply::Pong | Reply::Simple(_) => "a simple string",
            Reply::Error(_) => "an error",
            Reply::Int(_) => "an integer",
            Reply::Bulk(_) => "a bulk string",
            Reply::Nil => "a null",
            Reply::Array(_) => "an array",
            Reply::Set(_) => "a set",
            Reply::Map(_) => "a map",
            Reply::Verbatim(_) => "a value of another type",
            Reply::Other(name) => name,
        }
    }

    /// None for a push message, which does not answer a command.
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Push { .. } => None,
            Value::Attribute { data, .. } => Reply::from_value(*data),
            value => Some(Reply::from_item(value)),
        }
    }

    fn from_item(value: Value) -> Self {
        let all = |values: Vec<Value>| values.into_iter().map(Reply::from_item).collect();
        match value {
            Value::Okay => Reply::Ok,
            Value::SimpleString(text) if text == "PONG" => Reply::Pong,
            Value::SimpleString(text) => Reply::Simple(text),
            Value::ServerError(error) => Reply::Error(ErrorReply::from(&error)),
            Value::Int(number) => Reply::Int(number),
            Value::BulkString(bytes) => Reply::Bulk(bytes),
            Value::VerbatimString { text, .. } => Reply::Verbatim(text),
            Value::Nil => Reply::Nil,
            Value::Array(values) => Reply::Array(all(values)),
            Value::Set(values) => Reply::Set(all(values)),
            Value::Map(pairs) => {
                let both = |(key, value)| (Reply::from_item(key), Reply::from_item(value));
                Reply::Map(pairs.into_iter().map(both).collect())
            }
            Value::Attribute { data, .. } => Reply::from_item(*data),
            Value::Double(_) => Reply::Other("a double"),
            Value::Boolean(_) => Reply::Other("a boolean"),
            _ => Reply::Other("a value of another type"),
        }
    }
}

/// An error reply: its wire text, without the leading `-` and the line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply(String);

impl ErrorReply {
    /// An error with this wire text, without the leading `-` and the line end.
    pub fn new(wire_text: impl Into<String>) -> Self {
        ErrorReply(wire_text.into())
    }

    /// The wire text.
    pub fn wire_text(&self) -> &str {
        &self.0
    }
}

impl From<&redis::ServerError> for ErrorReply {
    /// The crate splits the wire text at the first space, and its `Display` replaces the code, so the two parts are
    /// joined here.
    fn from(error: &redis::ServerError) -> Self {
        ErrorReply::new(match error.details() {
            Some(details) => format!("{} {details}", error.code()),
            None => error.code().to_owned(),
        })
    }
}

/// The failure for an unexpected reply to `command`: the server's error, or a protocol violation.
pub fn unexpected(command: &str, reply: &Reply) -> Failure {
    let shown = match reply {
        Reply::Error(error) => return Failure::from_reply(error.wire_text()),
        Reply::Ok => "+OK".to_owned(),
        Reply::Pong => "+PONG".to_owned(),
        Reply::Simple(text) => format!("+{text}"),
        Reply::Bulk(bytes) if promises_no_bulk(command) => {
            format!("\"{}\"", String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]))
        }
        other => other.type_name().to_owned(),
    };
    Failure::new(Kind::Protocol, format!("{shown} in reply to {command}"))
}

/// Whether `command` never returns a bulk string, so that an unexpected one is quoted in the failure. Only these texts
/// are redacted: bulk strings that other commands return are data, which must not be altered.
pub fn promises_no_bulk(command: &str) -> bool {
    matches!(command, "SELECT" | "PING" | "AUTH")
}

/// Why no reply could be read. The stream cannot be used afterwards.
#[derive(Debug)]
pub enum ReadError {
    /// The stream broke.
    Io(io::Error),
    /// The stream ended, possibly within a reply.
    Ended { within_reply: bool },
    /// The reply is longer than `limit` bytes.
    TooLong { limit: usize },
    /// The received bytes are not RESP.
    NotResp(Vec<u8>),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error.into(),
            ReadError::Ended { within_reply: true } => Failure::new(Kind::Closed, "Connection closed within a reply"),
            ReadError::Ended { within_reply: false } => Failure::new(Kind::Closed, "Connection closed by the server"),
            ReadError::TooLong { limit } => Failure::new(Kind::Protocol, format!("a reply of more than {limit} bytes")),
            ReadError::NotResp(bytes) => {
                // The first line is the most useful: an HTTP server's status, for example.
                let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
                let shown = String::from_utf8_lossy(&line[..line.len().min(MAX_TEXT)]);
                Failure::new(Kind::Protocol, format!("not a Redis reply: {shown}"))
            }
        }
    }
}

/// Reads replies from a stream, one after the other.
pub struct Decoder<S> {
    source: Source<S>,
    /// Its buffer holds bytes taken from the source that were not parsed yet.
    parser: combine::stream::Decoder<AnySendSyncPartialState, PointerOffset<[u8]>>,
}

impl<S: AsyncRead + Unpin> Decoder<S> {
    pub fn new(stream: S) -> Self {
        let buffered = BufReader::with_capacity(READ_AHEAD, stream);
        let source = Source { buffered, left: MAX_REPLY, reads: 0, error: None };
        Decoder { source, parser: combine::stream::Decoder::new() }
    }

    /// The stream, to write to.
    pub fn stream(&mut self) -> &mut S {
        self.source.buffered.get_mut()
    }

    /// How many times the stream was read. Replies with the same count were received together.
    pub fn reads(&self) -> u64 {
        self.source.reads
    }

    /// The next reply, if it was received already and is OK or PONG.
    ///
    /// A healthy check of 10,000 databases has 20,000 of these, so they bypass the parser and allocate nothing.
    pub fn take_ready(&mut self) -> Option<Reply> {
        if !self.parser.buffer().is_empty() {
            return None;
        }
        let (reply, length) = match self.source.buffered.buffer() {
            [b'+', b'O', b'K', b'\r', b'\n', ..] => (Reply::Ok, 5),
            [b'+', b'P', b'O', b'N', b'G', b'\r', b'\n', ..] => (Reply::Pong, 7),
            _ => return None,
        };
        self.source.buffered.consume(length);
        Some(reply)
    }

    /// The next reply. Push messages and attributes are skipped.
    ///
    /// # Errors
    /// The stream broke or ended, or the bytes are not RESP.
    pub async fn next(&mut self) -> Result<Reply, ReadError> {
        loop {
            if self.parser.buffer().is_empty() && self.source.fill().await? == 0 {
                return Err(ReadError::Ended { within_reply: false });
            }
            if let Some(reply) = self.take_ready() {
                return Ok(reply);
            }

            self.source.left = MAX_REPLY;
            let parsed = redis::parse_redis_value_async(&mut self.parser, &mut self.source).await;
            let value = parsed.map_err(|error| self.read_error(&error))?;
            if let Some(reply) = Reply::from_value(value) {
                return Ok(reply);
            }
        }
    }

    /// The next reply of up to `limit` bytes, without a tree of values. Only such replies can be read after it.
    ///
    /// # Errors
    /// The stream broke or ended, or the bytes are not RESP.
    pub async fn next_large(&mut self, limit: usize, turn: &mut Turn) -> Result<LargeReply, ReadError> {
        if !self.parser.buffer().is_empty() {
            // The parser cannot give back what it has taken, which is more than it was asked for.
            return Err(ReadError::NotResp(self.parser.buffer().to_vec()));
        }
        self.source.reads += 1;
        LargeReply::read(&mut self.source.buffered, limit, turn).await
    }

    /// The crate's error does not contain how the stream failed, so the source keeps it.
    fn read_error(&mut self, error: &redis::RedisError) -> ReadError {
        match self.source.error.take() {
            Some(error) => error,
            None if error.is_io_error() => ReadError::Ended { within_reply: !self.parser.buffer().is_empty() },
            None => ReadError::NotResp(self.parser.buffer().to_vec()),
        }
    }
}

/// The parser's input: a buffered stream that limits the size of a reply and keeps the error of a failed read.
struct Source<S> {
    buffered: BufReader<S>,
    /// How many bytes the current reply may still have.
    left: usize,
    reads: u64,
    error: Option<ReadError>,
}

impl<S: AsyncRead + Unpin> Source<S> {
    /// Waits until bytes are buffered, and returns how many. 0 at the end of the stream.
    async fn fill(&mut self) -> Result<usize, ReadError> {
        if self.buffered.buffer().is_empty() {
            self.reads += 1;
        }
        match self.buffered.fill_buf().await {
            Ok(bytes) => Ok(bytes.len()),
            Err(error) if is_end(&error) => Ok(0),
            Err(error) => Err(ReadError::Io(error)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Source<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.error = Some(ReadError::TooLong { limit: MAX_REPLY });
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }

        let is_new_read = self.buffered.buffer().is_empty();
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.buffered).poll_read(cx, buf));
        self.reads += u64::from(is_new_read);
        self.left = self.left.saturating_sub(buf.filled().len() - before);

        Poll::Ready(match read {
            Err(error) if is_end(&error) => Ok(()),
            Err(error) => {
                self.error = Some(ReadError::Io(error));
                Err(io::ErrorKind::BrokenPipe.into())
            }
            Ok(()) => Ok(()),
        })
    }
}

/// A TLS stream that ends without `close_notify` reports an error. A killed server does not send one, so this counts as
/// a normal end.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

/// PING, packed.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Appends a command as clients send it: an array of bulk strings (redis.io, protocol specification).
pub fn pack(commands: &mut Vec<u8>, words: &[&[u8]]) {
    pack_length(commands, b'*', words.len());
    for word in words {
        pack_length(commands, b'$', word.len());
        commands.extend_from_slice(word);
        commands.extend_from_slice(b"\r\n");
    }
}

/// Appends the length of an array or a bulk string, such as `$6` and a line end.
fn pack_length(commands: &mut Vec<u8>, kind: u8, length: usize) {
    let mut digits = [0; MAX_DIGITS];
    commands.push(kind);
    commands.extend_from_slice(decimal(&mut digits, length as u64));
    commands.extend_from_slice(b"\r\n");
}

/// The maximum number of digits of a `u64`.
pub const MAX_DIGITS: usize = 20;

/// Writes `number` in decimal to the end of `digits`, so that packing a number allocates nothing.
pub fn decimal(digits: &mut [u8; MAX_DIGITS], mut number: u64) -> &[u8] {
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    &digits[start..]
}

#[cfg(test)]
pub mod tests {
    use std::fs;
    use std::future::Future;

    use proptest::prelude::*;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// All replies in `bytes`, and how reading ended.
    fn read_all(bytes: &[u8]) -> (Vec<Reply>, ReadError) {
        block_on(async {
            let (mut decoder, mut replies) = (Decoder::new(bytes), Vec::new());
            loop {
                match decoder.next().await {
                    Ok(reply) => replies.push(reply),
                    Err(error) => return (replies, error),
                }
            }
        })
    }

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.into())
    }

    #[test]
    fn replies_are_read_one_by_one() {
        let wire =
            b"+OK\r\n+PONG\r\n+OKAY\r\n-ERR no \r\n-LOADING\r\n:-7\r\n$2\r\nab\r\n$-1\r\n*2\r\n+OK\r\n+PONG\r\n+OK\r\n";
        let (replies, end) = read_all(wire);
        assert_eq!(
            replies,
            [
                Reply::Ok,
                Reply::Pong,
                Reply::Simple("OKAY".into()),
                Reply::Error(ErrorReply::new("ERR no ")),
                Reply::Error(ErrorReply::new("LOADING")),
                Reply::Int(-7),
                bulk("ab"),
                Reply::Nil,
                Reply::Array(vec![Reply::Ok, Reply::Pong]),
                Reply::Ok,
            ]
        );
        assert!(matches!(end, ReadError::Ended { within_reply: false }), "{end:?}");
        assert!(matches!(read_all(b"+O").1, ReadError::Ended { within_reply: true }));
    }

    #[test]
    fn pushes_are_skipped_and_attributes_left_out() {
        let wire = b">2\r\n+message\r\n+x\r\n|1\r\n+ttl\r\n:1\r\n%1\r\n+a\r\n~2\r\n#t\r\n,1.5\r\n=6\r\ntxt:ab\r\n!5\r\nERR x\r\n";
        let set = Reply::Set(vec![Reply::Other("a boolean"), Reply::Other("a double")]);
        let map = Reply::Map(vec![(Reply::Simple("a".into()), set)]);
        let expected = [map, Reply::Verbatim("ab".into()), Reply::Error(ErrorReply::new("ERR x"))];
        assert_eq!(read_all(wire).0, expected);
    }

    #[test]
    fn invalid_replies_are_a_failure_on_one_line() {
        let failure = |bytes: &[u8]| Failure::from(read_all(bytes).1).to_string();
        assert_eq!(failure(b"HTTP/1.1 400 Bad\r\nDate: x"), "protocol: not a Redis reply: HTTP/1.1 400 Bad");
        let long = [b"$100000\r\n".as_slice(), &[b'x'; 100_000]].concat();
        assert_eq!(failure(&long), "protocol: a reply of more than 65536 bytes");
    }

    #[test]
    fn ready_replies_come_from_one_read() {
        block_on(async {
            let mut decoder = Decoder::new(&b"+OK\r\n+PONG\r\n:1\r\n"[..]);
            assert_eq!((decoder.take_ready(), decoder.reads()), (None, 0));
            assert_eq!((decoder.next().await.unwrap(), decoder.reads()), (Reply::Ok, 1));
            assert_eq!((decoder.take_ready(), decoder.take_ready(), decoder.reads()), (Some(Reply::Pong), None, 1));
            assert_eq!(decoder.next().await.unwrap(), Reply::Int(1));
        });
    }

    #[test]
    fn a_secret_is_cut_from_any_text() {
        let secret = Secret::new("hunter2");
        let redacted = |mut reply: Reply| {
            reply.redact(&secret);
            reply
        };
        let error = |text: &str| Reply::Error(ErrorReply::new(text));
        assert_eq!(redacted(error("ERR 'hunter2' x")), error("ERR '[redacted]"));
        assert_eq!(redacted(Reply::Simple("a hunter2".into())), Reply::Simple("a [redacted]".into()));
        assert_eq!(redacted(bulk("hunter2")), bulk("[redacted]"));
        assert_eq!(redacted(error("ERR x")), error("ERR x"));
    }

    #[test]
    fn unexpected_replies_are_named() {
        for (command, reply, line) in [
            ("PING", Reply::Ok, "protocol: +OK in reply to PING"),
            ("SELECT", Reply::Pong, "protocol: +PONG in reply to SELECT"),
            ("PING", bulk("PONG"), "protocol: \"PONG\" in reply to PING"),
            ("GET", bulk("secret"), "protocol: a bulk string in reply to GET"),
            ("DEL", Reply::Nil, "protocol: a null in reply to DEL"),
            ("SET", Reply::Error(ErrorReply::new("READONLY no")), "readonly: READONLY no"),
        ] {
            assert_eq!(unexpected(command, &reply).to_string(), line);
        }
    }

    #[test]
    fn commands_are_packed_as_arrays_of_bulk_strings() {
        let mut digits = [0; MAX_DIGITS];
        for number in [0, 7, 10, 1_199_999, u64::MAX] {
            assert_eq!(decimal(&mut digits, number), number.to_string().as_bytes());
        }
        let mut commands = Vec::new();
        pack(&mut commands, &[b"SELECT", decimal(&mut digits, 12)]);
        pack(&mut commands, &[b"PING"]);
        assert!(commands.ends_with(PING));
        assert_eq!(commands, b"*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n*1\r\n$4\r\nPING\r\n");
    }

    /// Replies captured from real servers, in `tests/corpus/replies`.
    fn corpus() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/replies");
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// Random bytes, or a capture with some bytes changed, removed or repeated.
    fn broken_replies() -> impl Strategy<Value = Vec<u8>> {
        let corpus = corpus();
        let changes = proptest::collection::vec((any::<u16>(), any::<u8>(), 0..4u8), 0..8);
        let mutated = (0..corpus.len(), changes).prop_map(move |(file, changes)| {
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
        });
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

        /// Any bytes are read as replies followed by one failure, whose text is one printable line.
        #[test]
        fn any_bytes_can_be_read(bytes in broken_replies()) {
            let failure = Failure::from(read_all(&bytes).1).to_string();
            prop_assert!(failure.len() <= MAX_TEXT && !failure.contains(char::is_control), "{failure:?}");
        }
    }
}
