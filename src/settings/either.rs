//! Settings that accept several types. An error describes the type that the operator evidently intended.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::forms::{Family, Fingerprint, InstanceType, KeyUrl, Sha256};
use super::schema::{Any, DriverRelease, Families, Key, KeyByFingerprint, KeyBySha256, VpcDriver};

/// A word, or a list.
trait WordOrList: Sized {
    const EXPECTED: &'static str;
    type Item: for<'de> Deserialize<'de>;
    fn word(word: &str) -> Option<Self>;
    fn list(list: Vec<Self::Item>) -> Self;
}

impl WordOrList for Families {
    const EXPECTED: &'static str = "a list of families such as [\"m4\", \"m5\"], or \"any\"";
    type Item = Family;

    fn word(word: &str) -> Option<Self> {
        (word == "any").then_some(Families::Any(Any::Any))
    }

    fn list(list: Vec<Family>) -> Self {
        Families::Listed(list)
    }
}

impl WordOrList for VpcDriver {
    const EXPECTED: &'static str = "\"2018-05\", \"any\", or a list of types such as [\"m4.large\", \"t3.large\"]";
    type Item = InstanceType;

    fn word(word: &str) -> Option<Self> {
        match word {
            "any" => Some(VpcDriver::Any(Any::Any)),
            "2018-05" => Some(VpcDriver::Release(DriverRelease::May2018)),
            _ => None,
        }
    }

    fn list(list: Vec<InstanceType>) -> Self {
        VpcDriver::Types(list)
    }
}

struct WordOrListVisitor<T>(PhantomData<T>);

impl<'de, T: WordOrList> Visitor<'de> for WordOrListVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
        T::word(word).ok_or_else(|| E::custom(format!("expected {}", T::EXPECTED)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(T::list)
    }
}

impl<'de> Deserialize<'de> for Families {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordOrListVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for VpcDriver {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordOrListVisitor(PhantomData))
    }
}

/// A key to download, with its pin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Download {
    url: KeyUrl,
    sha256: Option<Sha256>,
    fingerprint: Option<Fingerprint>,
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, { url, sha256 } or { url, fingerprint }")
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<Key, E> {
        path.parse().map(Key::Path).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
        let Download { url, sha256, fingerprint } = Download::deserialize(MapAccessDeserializer::new(map))?;
        match (sha256, fingerprint) {
            (Some(sha256), None) => Ok(Key::Sha256(KeyBySha256 { url, sha256 })),
            (None, Some(fingerprint)) => Ok(Key::Fingerprint(KeyByFingerprint { url, fingerprint })),
            _ => Err(A::Error::custom("expected a path, { url, sha256 } or { url, fingerprint }")),
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}
