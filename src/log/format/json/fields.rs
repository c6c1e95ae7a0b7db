//! The objects of the JSON lines, as they are written and read. A line is one object, without nesting except for the
//! databases of a scan, so it is composed of groups of fields.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::clock::Stamp;

/// Text, borrowed from the line or the record unless it contains escapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'a> Text<'a> {
    pub fn of(text: &'a str) -> Self {
        Text(Cow::Borrowed(text))
    }

    pub fn shown(text: impl fmt::Display) -> Self {
        Text(Cow::Owned(text.to_string()))
    }

    pub fn stamp(at: Stamp) -> Self {
        Text(Cow::Owned(at.rfc3339()))
    }
}

/// A line: the time and the fields of its type.
#[derive(Serialize, Deserialize)]
pub struct Line<'a> {
    #[serde(borrow)]
    pub at: Text<'a>,
    #[serde(flatten)]
    pub fields: Fields<'a>,
}

/// The types of lines. Durations in marks are in seconds.
#[derive(Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and only until it is written or read")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Fields<'a> {
    #[serde(borrow)]
    Check(CheckFields<'a>),
    Scan(ScanFields<'a>),
    RunStarted {
        mode: Text<'a>,
        host: Text<'a>,
        began: Text<'a>,
        since_start_us: u64,
    },
    CycleStarted {
        cycle: u32,
    },
    CycleCompleted {
        cycle: u32,
        pause_s: f64,
    },
    AllFinished,
    Stopped {
        signal: Text<'a>,
    },
    Canary,
    NotObserved {
        from: Text<'a>,
        to: Text<'a>,
        missed: u64,
    },
    RecordsLost {
        from: Text<'a>,
        to: Text<'a>,
        count: u64,
    },
    Change {
        #[serde(flatten)]
        target: SubjectFields<'a>,
        what: Text<'a>,
        from: Text<'a>,
        to: Text<'a>,
    },
    OutageBegan {
        #[serde(flatten)]
        subject: SubjectFields<'a>,
        #[serde(flatten)]
        onset: OnsetFields,
    },
    OutageEnded {
        #[serde(flatten)]
        subject: SubjectFields<'a>,
        #[serde(flatten)]
        length: LengthFields<'a>,
    },
}

/// Fields on the same level of an object. All of them can be absent, and a field that has its default value is left
/// out. A field that is always written is an `Option`, which is `Some` even for `false` or 0.
trait Group<'a>: Default {
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;

    /// Reads the value of `key` if it is a field of this group, and returns whether it is.
    fn read<M: MapAccess<'a>>(&mut self, key: &str, map: &mut M) -> Result<bool, M::Error>;
}

fn write_field<M: SerializeMap, T: Default + PartialEq + Serialize>(
    map: &mut M,
    key: &str,
    value: &T,
) -> Result<(), M::Error> {
    if *value == T::default() { Ok(()) } else { map.serialize_entry(key, value) }
}

/// Reads an object in one pass. Fields that are in no group are ignored.
struct GroupVisitor<G>(PhantomData<G>);

impl<'a, G: Group<'a>> Visitor<'a> for GroupVisitor<G> {
    type Value = G;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<G, M::Error> {
        let mut group = G::default();
        while let Some(Text(key)) = map.next_key()? {
            if !group.read(&key, &mut map)? {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(group)
    }
}

/// Declares a group: its own fields, then the groups it contains, in the order in which they are written. Serde can
/// also flatten structs, but reads them several times more slowly.
macro_rules! group {
    (
        $(#[$attribute:meta])*
        $name:ident $(<$life:lifetime>)? { $($field:ident: $value:ty,)* $(..$inner:ident: $group:ty,)* }
    ) => {
        $(#[$attribute])*
        #[derive(Default, PartialEq)]
        pub struct $name $(<$life>)? {
            $(pub $field: $value,)*
            $(pub $inner: $group,)*
        }

        impl<'a> Group<'a> for $name $(<$life>)? {
            fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
                $(write_field(map, stringify!($field), &self.$field)?;)*
                $(self.$inner.write(map)?;)*
                Ok(())
            }

            // One match over the fields of all inner groups is a tenth faster than a call for each.
            #[inline(always)]
            fn read<M: MapAccess<'a>>(&mut self, key: &str, map: &mut M) -> Result<bool, M::Error> {
                Ok(match key {
                    $(stringify!($field) => {
                        self.$field = map.next_value()?;
                        true
                    })*
                    _ => false $(|| self.$inner.read(key, map)?)*,
                })
            }
        }

        impl $(<$life>)? Serialize for $name $(<$life>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                self.write(&mut map)?;
                map.end()
            }
        }

        impl<'a> Deserialize<'a> for $name $(<$life>)? {
            fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_map(GroupVisitor(PhantomData))
            }
        }
    };
}

/// A group that is written and not read, because nothing needs it and reading takes time.
#[derive(Default, PartialEq)]
pub struct Unread<G>(pub G);

impl<'a, G: Group<'a>> Group<'a> for Unread<G> {
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        self.0.write(map)
    }

    fn read<M: MapAccess<'a>>(&mut self, _: &str, _: &mut M) -> Result<bool, M::Error> {
        Ok(false)
    }
}

group! {
    /// A check. Its server is not read: the marks contain the changes.
    CheckFields<'a> {
        mode: Option<Text<'a>>,
        since_start_us: Option<u64>,
        wrote: Option<bool>,
        ..subject: SubjectFields<'a>,
        ..result: ResultFields<'a>,
        ..timings: Unread<TimingFields>,
        ..waits: WaitFields,
        ..server: Unread<ServerFields<'a>>,
    }
}

group! {
    /// One database of a scan.
    DatabaseFields<'a> {
        ..subject: SubjectFields<'a>,
        ..result: ResultFields<'a>,
        ..timings: Unread<TimingFields>,
        ..waits: WaitFields,
        ..server: ServerFields<'a>,
    }
}

group! {
    /// A scan.
    ScanFields<'a> {
        ok: Option<bool>,
        elapsed_us: Option<u64>,
        databases: Option<Vec<DatabaseFields<'a>>>,
        canary: bool,
        signal: Option<Text<'a>>,
        stopped_at: Option<Text<'a>>,
    }
}

group! {
    /// What was checked.
    SubjectFields<'a> {
        node: Option<Text<'a>>,
        shard: Option<Text<'a>>,
        db: Option<u32>,
        held: bool,
        cluster: bool,
        write: bool,
    }
}

group! {
    /// The result of a check. A database of a scan has no number.
    ResultFields<'a> {
        number: Option<u64>,
        ok: Option<bool>,
        kind: Option<Text<'a>>,
        detail: Option<Text<'a>>,
        elapsed_us: Option<u64>,
        onset_us: Option<u64>,
    }
}

group! {
    /// How long opening the connection took, in microseconds.
    TimingFields {
        resolve_us: u64,
        connect_us: u64,
        tls_us: u64,
        auth_us: u64,
    }
}

group! {
    /// How long a check waited for replies, in microseconds.
    WaitFields {
        select_us: u64,
        ping_us: u64,
        write_us: u64,
    }
}

group! {
    /// The server that answered.
    ServerFields<'a> {
        peer: Option<Text<'a>>,
        role: Option<Text<'a>>,
        engine: Option<Text<'a>>,
        version: Option<Text<'a>>,
        run_id: Option<Text<'a>>,
        uptime_s: Option<u64>,
    }
}

group! {
    /// How far into its first failed check an outage began.
    OnsetFields {
        onset_s: Option<f64>,
    }
}

group! {
    /// How long an outage lasted.
    LengthFields<'a> {
        first_failure: Option<Text<'a>>,
        at_least_s: Option<f64>,
        at_most_s: Option<f64>,
    }
}

/// A check or a scan that begins with its time and its type, as this tool writes them. It is read in one pass, several
/// times as fast as a [`Line`], whose fields serde collects until it knows the type.
pub struct OrderedLine<'a>(pub Line<'a>);

impl<'a> Deserialize<'a> for OrderedLine<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OrderedLineVisitor)
    }
}

struct OrderedLineVisitor;

impl<'a> Visitor<'a> for OrderedLineVisitor {
    type Value = OrderedLine<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a check or a scan")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<OrderedLine<'a>, M::Error> {
        let Some(("at", at)) = map.next_entry::<&str, Text<'a>>()? else {
            return Err(Error::missing_field("at"));
        };
        let Some(("type", kind)) = map.next_entry::<&str, &str>()? else {
            return Err(Error::missing_field("type"));
        };

        let rest = MapAccessDeserializer::new(map);
        let fields = match kind {
            "check" => Fields::Check(Deserialize::deserialize(rest)?),
            "scan" => Fields::Scan(Deserialize::deserialize(rest)?),
            _ => return Err(Error::custom("neither a check nor a scan")),
        };
        Ok(OrderedLine(Line { at, fields }))
    }
}
