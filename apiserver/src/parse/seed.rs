//! A serde reader -> a JSON value, noting keys that stand twice.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

use super::{DEPTH_MAX, OBJECTS_MAX, Parsed};

/// More keys that stand twice are not noted, nor more once they take so much room: a path is as long as the keys in it.
const DUPLICATES_MAX: usize = 100;
const DUPLICATES_BYTES_MAX: usize = 1 << 20;

pub fn read<'de, D: Deserializer<'de>>(reader: D) -> Result<Parsed, D::Error> {
    let (duplicates, objects) = (RefCell::default(), Cell::new(0));
    let value = Seed { at: &Place::Root, depth: 0, objects: &objects, duplicates: &duplicates }.deserialize(reader)?;
    Ok(Parsed { value, duplicates: duplicates.into_inner().paths, lines: Vec::new() })
}

#[derive(Default)]
struct Duplicates {
    paths: Vec<String>,
    bytes: usize,
}

impl Duplicates {
    fn note(&mut self, at: &Place<'_>) {
        if self.paths.len() < DUPLICATES_MAX && self.bytes < DUPLICATES_BYTES_MAX {
            let path = at.to_string();
            self.bytes += path.len();
            self.paths.push(path);
        }
    }
}

enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Key(Place::Root, key) => f.write_str(key),
            Place::Key(parent, key) => write!(f, "{parent}.{key}"),
            Place::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    at: &'a Place<'a>,
    depth: usize,
    objects: &'a Cell<usize>,
    duplicates: &'a RefCell<Duplicates>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl Seed<'_> {
    fn below<'b>(&self, at: &'b Place<'b>) -> Seed<'b>
    where
        Self: 'b,
    {
        Seed { at, depth: self.depth + 1, objects: self.objects, duplicates: self.duplicates }
    }

    fn shallow<E: Error>(&self) -> Result<(), E> {
        if self.depth > DEPTH_MAX { Err(E::custom("exceeded max depth")) } else { Ok(()) }
    }

    fn few<E: Error>(&self) -> Result<(), E> {
        self.objects.set(self.objects.get() + 1);
        if self.objects.get() > OBJECTS_MAX { Err(E::custom(format_args!("more than {OBJECTS_MAX} objects in it"))) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("json: unsupported value"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.shallow()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(self.below(&Place::Index(self.at, list.len())))? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.shallow()?;
        self.few()?;
        let mut map = Map::new();
        while let Some(Key(key)) = access.next_key()? {
            let value = access.next_value_seed(self.below(&Place::Key(self.at, &key)))?;
            match map.entry(key) {
                Entry::Vacant(place) => drop(place.insert(value)),
                Entry::Occupied(mut place) => {
                    self.duplicates.borrow_mut().note(&Place::Key(self.at, place.key()));
                    place.insert(value);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

/// A key as text, also where YAML has a number or a boolean there.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<Key, E> {
        Ok(Key(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Key, E> {
        Ok(Key(value))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }
}
