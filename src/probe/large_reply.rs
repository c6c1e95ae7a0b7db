//! Large replies, which stay in the bytes in which they were received: a tree of values would need ten to eighty times as
//! much memory. They are checked for completeness while they are received, so that no single step takes long.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::model::secret::Secret;
use crate::probe::resp::{ErrorReply, ReadError, Reply};

/// The deepest nesting. Replies about the topology have five levels.
const MAX_DEPTH: usize = 16;

/// The longest line outside of a bulk string, in bytes.
const MAX_LINE: usize = 64 << 10;

/// Up to this number of bytes, replies are received at any time. Only one discovery at a time may receive more, so that
/// overlapping ones do not add up.
const FREE: usize = 256 << 10;

/// Whose turn it is to receive large replies.
static TURN: Semaphore = Semaphore::const_new(1);

/// The turn to receive large replies, once it was needed.
#[derive(Debug, Default)]
pub struct Turn(Option<SemaphorePermit<'static>>);

/// A complete reply as it was received.
#[derive(Debug, Default)]
pub struct LargeReply(Vec<u8>);

impl LargeReply {
    /// Reads a reply of up to `limit` bytes. Push messages are skipped.
    ///
    /// # Errors
    /// The stream broke or ended, or the bytes are not RESP.
    pub async fn read(
        stream: &mut (impl AsyncBufRead + Unpin),
        limit: usize,
        turn: &mut Turn,
    ) -> Result<Self, ReadError> {
        let (mut bytes, mut frame) = (Vec::new(), Frame::default());
        loop {
            let received = stream.fill_buf().await;
            let received = match received {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => &[],
                Err(error) => return Err(ReadError::Io(error)),
            };
            if received.is_empty() {
                return Err(ReadError::Ended { within_reply: !bytes.is_empty() });
            }

            let before = bytes.len();
            bytes.extend_from_slice(received);
            let end = frame.scan(&bytes, limit)?;
            let taken = end.unwrap_or(bytes.len()) - before;
            stream.consume(taken);
            bytes.truncate(before + taken);
            match end {
                Some(_) if bytes.first() == Some(&b'>') => (bytes, frame) = (Vec::new(), Frame::default()),
                Some(_) => return Ok(LargeReply(bytes)),
                None if bytes.len() > limit => return Err(ReadError::TooLong { limit }),
                None if bytes.len() > FREE && turn.0.is_none() => turn.0 = TURN.acquire().await.ok(),
                None => {}
            }
        }
    }

    /// The whole reply.
    pub fn root(&self) -> Item<'_> {
        Item(&self.0)
    }

    /// Truncates the text of an error or a simple string where it begins to show `secret`. Bulk strings are data.
    pub fn redact(&mut self, secret: &Secret) {
        if matches!(self.0.first(), Some(b'-' | b'+' | b'!'))
            && let Some(cut) = secret.cut_from(&String::from_utf8_lossy(&self.0))
        {
            self.0 = format!("{cut}\r\n").into_bytes();
        }
    }

    #[cfg(test)]
    pub fn of(bytes: &[u8]) -> Self {
        assert_eq!(Frame::default().scan(bytes, bytes.len()).unwrap(), Some(bytes.len()));
        LargeReply(bytes.to_vec())
    }
}

/// Finds the end of a reply while it is received.
#[derive(Default)]
struct Frame {
    /// Where the next value begins, and how far its line was searched for its end.
    at: usize,
    searched: usize,
    /// How many values are missing on each level.
    missing: [usize; MAX_DEPTH],
    depth: usize,
}

impl Frame {
    /// The length of the reply at the beginning of `bytes`, if it is complete. `bytes` grows from call to call.
    fn scan(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, ReadError> {
        loop {
            let from = self.at.max(self.searched);
            let Some(line_end) = memchr::memchr(b'\n', bytes.get(from..).unwrap_or_default()).map(|at| from + at)
            else {
                self.searched = bytes.len();
                let length = bytes.len().saturating_sub(self.at);
                return if length > MAX_LINE { Err(self.invalid(bytes)) } else { Ok(None) };
            };
            self.searched = line_end;

            let Some(header) = Header::read(&bytes[self.at..=line_end]) else { return Err(self.invalid(bytes)) };
            let next = match header {
                Header::Leaf => line_end + 1,
                Header::Bulk(length) | Header::Values(length) if length > limit => {
                    return Err(ReadError::TooLong { limit });
                }
                Header::Bulk(length) => line_end + 1 + length + 2,
                Header::Values(0) => line_end + 1,
                Header::Values(count) if self.depth < MAX_DEPTH => {
                    self.missing[self.depth] = count;
                    self.depth += 1;
                    self.at = line_end + 1;
                    continue;
                }
                Header::Values(_) => return Err(self.invalid(bytes)),
            };
            if next > bytes.len() {
                return Ok(None);
            }

            self.at = next;
            while self.depth > 0 {
                self.missing[self.depth - 1] -= 1;
                if self.missing[self.depth - 1] > 0 {
                    break;
                }
                self.depth -= 1;
            }
            if self.depth == 0 {
                return Ok(Some(self.at));
            }
        }
    }

    fn invalid(&self, bytes: &[u8]) -> ReadError {
        let rest = bytes.get(self.at..).unwrap_or_default();
        ReadError::NotResp(rest[..rest.len().min(MAX_LINE)].to_vec())
    }
}

/// The first line of a value (redis.io, protocol specification).
enum Header {
    /// The line is the value.
    Leaf,
    /// As many bytes follow, and a line end.
    Bulk(usize),
    /// As many values follow.
    Values(usize),
}

impl Header {
    /// Reads a line with its end.
    fn read(line: &[u8]) -> Option<Self> {
        let (kind, rest) = line.strip_suffix(b"\r\n")?.split_first()?;
        let length = || std::str::from_utf8(rest).ok()?.parse::<i64>().ok();
        let count = |factor: usize, more: usize| match length()? {
            -1 if more == 0 => Some(Header::Leaf),
            count => Some(Header::Values(usize::try_from(count).ok()?.checked_mul(factor)?.checked_add(more)?)),
        };
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Some(Header::Leaf),
            b'$' | b'!' | b'=' => match length()? {
                -1 if *kind == b'$' => Some(Header::Leaf),
                length => Some(Header::Bulk(usize::try_from(length).ok()?)),
            },
            b'*' | b'~' | b'>' => count(1, 0),
            b'%' => count(2, 0),
            // Names and values, which describe the value after them.
            b'|' => count(2, 1),
            _ => None,
        }
    }
}

/// A value within a complete reply. The bytes begin with it, and may go on after it.
#[derive(Clone, Copy, Debug)]
pub struct Item<'r>(&'r [u8]);

impl<'r> Item<'r> {
    /// The first line, the bytes after it, and what the line says. Attributes are skipped.
    fn header(self) -> Option<(&'r [u8], &'r [u8], Header)> {
        let mut bytes = self.0;
        loop {
            let (line, rest) = bytes.split_at(memchr::memchr(b'\n', bytes)? + 1);
            match Header::read(line)? {
                Header::Values(count) if line[0] == b'|' => bytes = after(rest, count - 1)?,
                header => return Some((line, rest, header)),
            }
        }
    }

    /// The values of an array or a set.
    pub fn items(self) -> Option<Items<'r>> {
        match self.header()? {
            (line, rest, Header::Values(left)) if matches!(line[0], b'*' | b'~') => Some(Items { rest, left }),
            _ => None,
        }
    }

    /// The names and values of a map (protocol 3), or of a flat list of them (protocol 2).
    pub fn fields(self) -> Option<impl Iterator<Item = (&'r str, Item<'r>)>> {
        let mut items = match self.header()? {
            (line, rest, Header::Values(left)) if matches!(line[0], b'*' | b'~' | b'%') => Items { rest, left },
            _ => return None,
        };
        let pairs = std::iter::from_fn(move || Some((items.next()?, items.next()?)));
        Some(pairs.filter_map(|(name, value)| Some((name.text()?, value))))
    }

    /// The text of a string of any kind, if it is UTF-8.
    pub fn text(self) -> Option<&'r str> {
        let (line, rest, header) = self.header()?;
        let bytes = match header {
            Header::Bulk(length) if line[0] == b'=' => rest.get(4..length)?,
            Header::Bulk(length) if line[0] == b'$' => rest.get(..length)?,
            Header::Leaf if line[0] == b'+' => line[1..].trim_ascii_end(),
            _ => return None,
        };
        std::str::from_utf8(bytes).ok()
    }

    /// A number from 0 to 65,535: an integer, or a text with one.
    pub fn number(self) -> Option<u16> {
        let (line, ..) = self.header()?;
        match line[0] {
            b':' => std::str::from_utf8(line[1..].trim_ascii_end()).ok()?.parse().ok(),
            _ => self.text()?.parse().ok(),
        }
    }

    /// The reply as a value, for a failure that names it. Values within it and long texts are left out.
    pub fn summary(self) -> Reply {
        let Some((line, rest, header)) = self.header() else { return Reply::Nil };
        let text = || String::from_utf8_lossy(line[1..].trim_ascii_end()).into_owned();
        match (line[0], header) {
            (b'-', _) => Reply::Error(ErrorReply::new(text())),
            (b'!', Header::Bulk(length)) => {
                let text = rest.get(..length.min(MAX_LINE)).unwrap_or_default();
                Reply::Error(ErrorReply::new(String::from_utf8_lossy(text)))
            }
            (b'+', _) => match text().as_str() {
                "OK" => Reply::Ok,
                "PONG" => Reply::Pong,
                other => Reply::Simple(other.to_owned()),
            },
            (b':', _) => Reply::Int(0),
            (b'$', Header::Bulk(_)) => Reply::Bulk(Vec::new()),
            (b'=', _) => Reply::Verbatim(String::new()),
            (b'*', Header::Values(_)) => Reply::Array(Vec::new()),
            (b'~', _) => Reply::Set(Vec::new()),
            (b'%', _) => Reply::Map(Vec::new()),
            (b'$' | b'*' | b'_', _) => Reply::Nil,
            (b',', _) => Reply::Other("a double"),
            (b'#', _) => Reply::Other("a boolean"),
            _ => Reply::Other("a value of another type"),
        }
    }
}

/// The bytes after `count` values.
fn after(mut bytes: &[u8], mut count: usize) -> Option<&[u8]> {
    while count > 0 {
        let (line, rest) = bytes.split_at(memchr::memchr(b'\n', bytes)? + 1);
        count -= 1;
        bytes = match Header::read(line)? {
            Header::Leaf => rest,
            Header::Bulk(length) => rest.get(length + 2..)?,
            Header::Values(more) => {
                count += more;
                rest
            }
        };
    }
    Some(bytes)
}

/// The values of an array, one after the other.
#[derive(Clone, Debug)]
pub struct Items<'r> {
    rest: &'r [u8],
    left: usize,
}

impl<'r> Iterator for Items<'r> {
    type Item = Item<'r>;

    fn next(&mut self) -> Option<Item<'r>> {
        self.left = self.left.checked_sub(1)?;
        let item = Item(self.rest);
        self.rest = after(self.rest, 1).unwrap_or_default();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a reply that is received in pieces of `step` bytes.
    fn read(bytes: &[u8], step: usize, limit: usize) -> Result<(LargeReply, usize), ReadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stream = tokio::io::BufReader::with_capacity(step, bytes);
        let reply = runtime.block_on(LargeReply::read(&mut stream, limit, &mut Turn::default()))?;
        let left = stream.buffer().len() + stream.get_ref().len();
        Ok((reply, left))
    }

    #[test]
    fn a_reply_ends_where_its_last_value_ends() {
        let replies: [&[u8]; 12] = [
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":12\r\n",
            b"$3\r\na\nb\r\n",
            b"$-1\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n",
            b"%1\r\n+a\r\n*1\r\n_\r\n",
            b"~1\r\n#t\r\n",
            b"|1\r\n+a\r\n*1\r\n:1\r\n*1\r\n+b\r\n",
            b"=6\r\ntxt:ab\r\n",
        ];
        for reply in replies {
            for step in [1, 3, 100] {
                let stream = [reply, b"+next\r\n"].concat();
                let (whole, left) = read(&stream, step, 1000).unwrap();
                assert_eq!((whole.0.as_slice(), left), (reply, b"+next\r\n".len()), "{step}");
                let (whole, _) = read(&[b">1\r\n+push\r\n", reply].concat(), step, 1000).unwrap();
                assert_eq!(whole.0, reply, "{step}");
                let ended = read(&reply[..reply.len() - 1], step, 1000);
                assert!(matches!(ended, Err(ReadError::Ended { within_reply: true })), "{step}");
            }
        }
    }

    #[test]
    fn what_is_not_a_reply_or_too_large_is_refused() {
        let nested = b"*1\r\n".repeat(MAX_DEPTH + 1);
        let many: [&[u8]; 8] =
            [b"x\r\n", b"*x\r\n", b"*-2\r\n", b"$-5\r\n", b"+a\n", b"\r\n", b"|-1\r\n+a\r\n", &nested];
        for bytes in many {
            assert!(matches!(read(bytes, 7, 1000), Err(ReadError::NotResp(_))), "{bytes:?}");
        }
        let long = [b"+".as_slice(), &[b'a'; 2000]].concat();
        let many: [&[u8]; 4] = [b"$1001\r\n", b"*9223372036854775807\r\n", b"%600\r\n", &long];
        for bytes in many {
            assert!(matches!(read(bytes, 7, 1000), Err(ReadError::TooLong { limit: 1000 })), "{bytes:?}");
        }
    }

    #[test]
    fn values_are_found_within_a_reply() {
        let reply =
            LargeReply::of(b"*3\r\n*2\r\n+a\r\n:7\r\n|1\r\n+x\r\n:9\r\n$2\r\n65\r\n%1\r\n$1\r\nk\r\n=6\r\ntxt:ab\r\n");
        let items: Vec<_> = reply.root().items().unwrap().collect();
        assert_eq!(items.len(), 3);
        let fields: Vec<_> = items[0].fields().unwrap().map(|(name, value)| (name, value.number())).collect();
        assert_eq!(fields, [("a", Some(7))]);
        assert_eq!((items[1].number(), items[1].text()), (Some(65), Some("65")));
        let fields: Vec<_> = items[2].fields().unwrap().map(|(name, value)| (name, value.text())).collect();
        assert_eq!(fields, [("k", Some("ab"))]);
        assert!(items[2].items().is_none() && items[1].items().is_none());
        assert_eq!(LargeReply::of(b":-1\r\n").root().number(), None);
        assert_eq!(LargeReply::of(b"-ERR x\r\n").root().summary(), Reply::Error(ErrorReply::new("ERR x")));
    }

    #[test]
    fn a_secret_is_cut_from_an_error() {
        let mut reply = LargeReply::of(b"-ERR args: 'hunter2' 'x'\r\n");
        reply.redact(&Secret::new("hunter2"));
        assert_eq!(reply.root().summary(), Reply::Error(ErrorReply::new("ERR args: '[redacted]")));
    }
}
