//! Reads messages that may be of another release: one of a kind that is not known here, or one with fewer or more fields.
//!
//! postcard writes the fields of a message one behind the other, without names. So a message can only grow at its end, and
//! it can be read here as follows, which plain postcard would refuse:
//!
//! - a kind whose number is over those known here is [`Unread::Unknown`], and nothing of it is looked at;
//! - fields are read as long as there are bytes; those that are missing at the end have the default that their definition
//!   names (`#[serde(default)]`), and a message that lacks another one is malformed;
//! - bytes behind the last field that is known here are skipped;
//! - a field that is well formed, but whose value has no meaning here (an algorithm of digests that nobody knows yet, say),
//!   makes the message [`Unread::Unknown`], too.
//!
//! Only the fields of the message itself can be fewer or more. A structure within a message never changes: what is to be
//! said besides gets a field at the end of the message.
//!
//! The memory that a message takes is bounded by its length ([`allowance`]).

mod allowance;

use std::fmt;

use postcard::{Deserializer as Postcard, take_from_bytes};
use serde::de::value::U32Deserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use self::allowance::{Allowance, Charged};
use crate::error::EncodingError;

/// Why a message was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The message says something that is not known here: skip it.
    Unknown,
    /// The message's bytes make no sense.
    Malformed,
    /// The message's lists would take far more memory than the message has bytes.
    Swollen,
}

/// Reads a message, an enum.
///
/// # Errors
/// [`Fault`], which says whether to skip the message or to give up the connection.
pub(crate) fn message<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Fault> {
    let allowance = Allowance::of(bytes.len());
    T::deserialize(Message { bytes, allowance: &allowance }).map_err(|fault| match allowance.is_spent() {
        true => Fault { unread: Unread::Swollen, ..fault },
        false => fault,
    })
}

/// Why a message was not read, and what the decoder said.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) unread: Unread,
    pub(crate) source: EncodingError,
}

impl From<EncodingError> for Fault {
    fn from(source: EncodingError) -> Self {
        // How postcard passes on that a value, read well, was refused by its type.
        let is_unknown = source == EncodingError::SerdeDeCustom;
        Self { unread: if is_unknown { Unread::Unknown } else { Unread::Malformed }, source }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(_: T) -> Self {
        EncodingError::SerdeDeCustom.into()
    }

    /// A field without a default is missing.
    fn invalid_length(_: usize, _: &dyn de::Expected) -> Self {
        EncodingError::DeserializeUnexpectedEnd.into()
    }
}

struct Message<'a, 'de> {
    bytes: &'de [u8],
    allowance: &'a Allowance,
}

impl<'de> Deserializer<'de> for Message<'_, 'de> {
    type Error = Fault;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        kinds: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (kind, rest) = take_from_bytes::<u32>(self.bytes)?;
        if kind as usize >= kinds.len() {
            return Err(EncodingError::SerdeDeCustom.into());
        }
        visitor.visit_enum(Body { kind, rest, allowance: self.allowance })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(EncodingError::WontImplement.into())
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A message behind the number of its kind.
struct Body<'a, 'de> {
    kind: u32,
    rest: &'de [u8],
    allowance: &'a Allowance,
}

impl<'de> EnumAccess<'de> for Body<'_, 'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let kind = seed.deserialize(U32Deserializer::<Fault>::new(self.kind))?;
        Ok((kind, self))
    }
}

impl<'de> VariantAccess<'de> for Body<'_, 'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        Ok(seed.deserialize(Charged::new(&mut Postcard::from_bytes(self.rest), self.allowance))?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Fields { rest: self.rest, allowance: self.allowance })
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Fields { rest: self.rest, allowance: self.allowance })
    }
}

/// The fields of a message that were not read yet.
struct Fields<'a, 'de> {
    rest: &'de [u8],
    allowance: &'a Allowance,
}

impl<'de> SeqAccess<'de> for Fields<'_, 'de> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut field = Postcard::from_bytes(self.rest);
        let value = seed.deserialize(Charged::new(&mut field, self.allowance))?;
        self.rest = field.finalize()?;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    /// A protocol's enum as the last release knew it.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Old {
        Ping,
        Say { text: String },
    }

    /// The same enum with later variants.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum New {
        Ping,
        Say {
            text: String,
            #[serde(default)]
            times: u16,
            #[serde(default = "loud")]
            loud: bool,
        },
        Sing {
            song: [u8; 4],
        },
    }

    fn loud() -> bool {
        true
    }

    fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Unread> {
        message(bytes).map_err(|fault| fault.unread)
    }

    #[test]
    fn a_message_may_have_more_fields_or_fewer_at_its_end() {
        let say = || "hi".to_owned();
        let newer = postcard::to_stdvec(&New::Say { text: say(), times: 300, loud: false }).unwrap();
        assert_eq!(read(&newer), Ok(Old::Say { text: say() }));
        let older = postcard::to_stdvec(&Old::Say { text: say() }).unwrap();
        assert_eq!(read(&older), Ok(New::Say { text: say(), times: 0, loud: true }));
        let between = [&older[..], &[0xac, 2]].concat();
        assert_eq!(read(&between), Ok(New::Say { text: say(), times: 300, loud: true }));
        assert_eq!(read(b"\0and more"), Ok(Old::Ping));
    }

    #[test]
    fn a_message_may_not_end_within_a_field_nor_lack_one_without_a_default() {
        for cut in [&b"\x01\x02h"[..], b"\x01\x02hi\xac", b"\x01", b"\x02son", b"\x02", b""] {
            assert_eq!(read::<New>(cut), Err(Unread::Malformed), "{cut:?}");
        }
        for wrong in [&b"\x01\x01\xff"[..], b"\x01\x02hi\x01\x02", b"\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(read::<New>(wrong), Err(Unread::Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn a_list_takes_no_more_memory_than_its_bytes_allow() {
        #[derive(Debug, PartialEq, Deserialize)]
        enum Lists {
            Texts(Vec<String>),
            Nested { first: u8, rest: Option<Vec<(Vec<u64>, [u8; 2])>> },
        }
        let of_zeros = |head: &[u8], bytes: usize| [head, &vec![0; bytes]].concat();
        // Its length in three bytes, then texts without letters: twenty-four times as much in memory.
        let few = of_zeros(b"\0\xa0\x9c\x01", 20_000);
        assert!(matches!(read(&few), Ok(Lists::Texts(texts)) if texts.len() == 20_000));
        let many = of_zeros(b"\0\xa0\x8d\x06", 100_000);
        assert_eq!(read::<Lists>(&many), Err(Unread::Swollen));
        let nested = of_zeros(b"\x01\x07\x01\xa0\x8d\x06", 300_000);
        assert_eq!(read::<Lists>(&nested), Err(Unread::Swollen));
        let inner = of_zeros(b"\x01\x07\x01\x01\xa0\x8d\x06", 100_002);
        assert_eq!(read::<Lists>(&inner), Err(Unread::Swollen), "a list within a list is charged, too");
        assert_eq!(read(b"\x01\x07\0"), Ok(Lists::Nested { first: 7, rest: None }));
    }

    #[test]
    fn a_kind_of_the_future_is_unknown_whatever_it_carries() {
        for unknown in [&b"\x02song"[..], b"\x02", b"\xff\xff\xff\xff\x0f\xff\xff"] {
            assert_eq!(read::<Old>(unknown), Err(Unread::Unknown), "{unknown:?}");
        }
    }
}
