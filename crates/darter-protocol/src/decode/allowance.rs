//! Bounds what the lists of a message take in memory while it is read.
//!
//! An element of a list may take two bytes on the wire and forty-eight in memory, as a header without name and value does: eight
//! megabytes of those would be two hundred. So each element of a list is charged, before it is read, with the memory that it takes in the
//! list. Other parts of an element (a text, bytes) take what they take on the wire, or are lists themselves.
//!
//! Invariant: lists grow by doubling, so that no more than twice the allowance is ever taken, and once more while one grows.
//!
//! Non-goals: how many elements of which list make sense ([`Message::check`](crate::Message)).

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, SeqAccess, VariantAccess, Visitor};

use crate::limits::memory_for;

/// The bytes of memory that the lists of one message may still take.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Cell<usize>,
    is_spent: Cell<bool>,
}

impl Allowance {
    /// The allowance of a message of `message` bytes.
    pub(super) fn of(message: usize) -> Self {
        Self { left: Cell::new(memory_for(message)), is_spent: Cell::new(false) }
    }

    /// True if a list wanted more than was left.
    pub(super) const fn is_spent(&self) -> bool {
        self.is_spent.get()
    }

    fn take(&self, bytes: usize) -> bool {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.unwrap_or_default());
        self.is_spent.set(self.is_spent.get() || left.is_none());
        left.is_some()
    }
}

/// A part of a deserializer whose lists are charged.
pub(super) struct Charged<'a, T> {
    inner: T,
    allowance: &'a Allowance,
}

impl<'a, T> Charged<'a, T> {
    pub(super) const fn new(inner: T, allowance: &'a Allowance) -> Self {
        Self { inner, allowance }
    }
}

/// Says which elements are charged: those of a structure lie in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    List,
    Structure,
}

/// A visitor, or what it visits, of a list or of something else.
struct Visited<'a, T> {
    inner: T,
    allowance: &'a Allowance,
    of: Of,
}

/// Passes on what holds no list.
macro_rules! plain {
    ($($name:ident)*) => {
        $(
            fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
                self.inner.$name(visitor)
            }
        )*
    };
}

impl<'a, D> Charged<'a, D> {
    const fn visited<V>(&self, visitor: V, of: Of) -> Visited<'a, V> {
        Visited { inner: visitor, allowance: self.allowance, of }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Charged<'_, D> {
    type Error = D::Error;

    plain! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier deserialize_ignored_any
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.deserialize_option(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visited(visitor, Of::List);
        self.inner.deserialize_seq(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        kinds: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.deserialize_enum(name, kinds, visitor)
    }

    /// No message has a map. One that had would have to be charged.
    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom("a map"))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Visited<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Expected::fmt(&self.inner, f)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Charged::new(some, self.allowance))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, field: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Charged::new(field, self.allowance))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        let Self { inner, allowance, of } = self;
        inner.visit_seq(Visited { inner: elements, allowance, of })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, kind: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Charged::new(kind, self.allowance))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Visited<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        if self.of == Of::List && !self.allowance.take(size_of::<S::Value>()) {
            return Err(A::Error::custom("lists that take far more memory than bytes"));
        }
        self.inner.next_element_seed(Charged::new(seed, self.allowance))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Charged<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, element: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Charged::new(element, self.allowance))
    }
}

impl<'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Charged<'a, A> {
    type Error = A::Error;
    type Variant = Charged<'a, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (kind, body) = self.inner.variant_seed(seed)?;
        Ok((kind, Charged::new(body, self.allowance)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Charged<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(Charged::new(seed, self.allowance))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.tuple_variant(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.visited(visitor, Of::Structure);
        self.inner.struct_variant(fields, visitor)
    }
}
