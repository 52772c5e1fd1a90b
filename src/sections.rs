//! Building blocks of configuration sections: the error for an invalid key, the keys that a run's
//! identity excludes, and enums of sections that the key `type` distinguishes.
//!
//! Each room defines the struct of its own section. The file that a value comes from and its line
//! are known to `config` alone, which turns an [`InvalidKey`] into a message with a position.

use serde::de::DeserializeOwned;
use thiserror::Error;

/// A configuration value that is out of range or does not fit another value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key}: {message}")]
pub struct InvalidKey {
    /// The key below its section, such as `image_size` or `prompts.cat`.
    pub key: String,
    /// The invalid value and the expected one.
    pub message: String,
}

impl InvalidKey {
    /// Creates an error about `key`; `message` continues a sentence that begins with the key.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

/// Defines an enum of [`Section`]s that the key `type` distinguishes, one line per type:
/// `"tag" => Variant(Config)`. Every `Config` must implement the trait that follows `dyn`.
macro_rules! tagged_sections {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident: dyn $trait:ident {
            $($tag:literal => $variant:ident($config:ty),)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        #[serde(tag = "type")]
        pub enum $name {
            $(
                #[doc = concat!("`type = \"", $tag, "\"`.")]
                #[serde(rename = $tag)]
                $variant($config),
            )+
        }

        impl $name {
            /// The values of `type`.
            pub const TYPES: &'static [&'static str] = &[$($tag),+];

            /// Reads the section whose `type` is `tag`; `None` if `tag` is not in
            /// [`Self::TYPES`].
            ///
            /// # Errors
            /// Those of `section`.
            pub fn read<R: $crate::sections::ReadSection>(
                tag: &str,
                section: R,
            ) -> Option<Result<Self, R::Error>> {
                match tag {
                    $($tag => Some(section.read().map(Self::$variant)),)+
                    _ => None,
                }
            }

            /// Returns the section's keys on which no generated sample depends.
            #[must_use]
            pub fn non_identity_keys(&self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant(_) => {
                        <$config as $crate::sections::Section>::NON_IDENTITY_KEYS
                    })+
                }
            }

            /// Returns the section behind its trait.
            #[must_use]
            pub fn section(&self) -> &dyn $trait {
                match self {
                    $(Self::$variant(config) => config,)+
                }
            }
        }

        #[cfg(test)]
        mod non_identity_keys {
            use super::*;

            #[test]
            fn are_keys_of_their_sections() {
                $($crate::sections::testing::assert_non_identity_keys::<$config>();)+
            }
        }
    };
}
pub(crate) use tagged_sections;

/// A configuration section.
pub trait Section: DeserializeOwned {
    /// Keys on which no generated sample depends, such as a path or a batch size. They are excluded
    /// from the identity that a resumed run must match.
    const NON_IDENTITY_KEYS: &'static [&'static str];
}

/// A reader of one configuration section whose type is only known at run time.
pub trait ReadSection {
    /// The error for text that is not this section.
    type Error;

    /// Reads the section as `T`.
    ///
    /// # Errors
    /// Those of the reader, for unknown keys, missing keys and wrong types.
    fn read<T: DeserializeOwned>(self) -> Result<T, Self::Error>;
}

#[cfg(test)]
pub(crate) mod testing {
    use serde::de::value::Error;
    use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
    use serde::forward_to_deserialize_any;

    use super::Section;

    /// A deserializer that records the field names that a struct requests, and then fails.
    struct FieldNames<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for FieldNames<'_> {
        type Error = Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            *self.0 = fields;
            Err(Error::custom(
                "only the names of the fields are of interest",
            ))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("not a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    /// Fails if an excluded key is not a key of its section, as after a rename.
    pub(crate) fn assert_non_identity_keys<S: Section>() {
        let mut fields: &[&str] = &[];
        let _ = <S as Deserialize<'_>>::deserialize(FieldNames(&mut fields));
        let section = std::any::type_name::<S>();
        assert!(!fields.is_empty(), "{section} is not a struct");
        for key in S::NON_IDENTITY_KEYS {
            assert!(
                fields.contains(key),
                "{section} has no key `{key}`: {fields:?}"
            );
        }
    }
}
