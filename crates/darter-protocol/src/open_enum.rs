//! Enums whose values may be of another release.

/// An enum of numbers, as postcard writes one without fields: the number as a varint. A number that is not known here is read
/// as the value named behind `else`.
macro_rules! open_enum {
    (
        $(#[$about:meta])*
        pub enum $name:ident else $other:ident {
            $($(#[$what:meta])* $value:ident = $number:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$what])* $value = $number,)+
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u32(*self as u32)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(match <u32 as serde::Deserialize>::deserialize(deserializer)? {
                    $($number => Self::$value,)+
                    _ => Self::$other,
                })
            }
        }
    };
}

pub(crate) use open_enum;
