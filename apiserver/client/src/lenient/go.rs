//! A tree of JSON -> any type, where null is the zero value of what is asked for, as in Go's `encoding/json`.

use std::{fmt, sync::LazyLock};

use api::time::Timestamp;
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Unexpected, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

/// What a part of the tree is read by.
#[derive(Clone, Copy)]
pub struct Go<'a>(pub &'a Value);

/// Where reading failed, innermost step first, and why.
#[derive(Debug)]
pub struct Fault {
    pub path: Vec<Step>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

#[derive(Debug)]
pub enum What {
    /// A field without which the type does not exist.
    Missing(&'static str),
    Other(String),
}

/// Go's zero `time.Time`.
static ZERO_TIME: LazyLock<Value> = LazyLock::new(|| "0001-01-01T00:00:00Z".into());
/// What Go takes for a time and our timestamps end before: 9999-12-31.
static LAST_TIME: LazyLock<Value> = LazyLock::new(|| Timestamp::MAX.to_string().into());
static ZERO: LazyLock<Value> = LazyLock::new(|| 0.into());
/// What a null map holds.
static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Value>>);

struct Entries<'a> {
    left: serde_json::map::Iter<'a>,
    value: Option<(&'a String, &'a Value)>,
}

impl Fault {
    fn at(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.path.iter().rev().enumerate() {
            match step {
                Step::Key(key) if i == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        match &self.what {
            What::Missing(field) => write!(f, ": missing field {field}"),
            What::Other(why) => write!(f, ": {why}"),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self { path: Vec::new(), what: What::Other(why.to_string()) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: Vec::new(), what: What::Missing(field) }
    }
}

impl<'a> Go<'a> {
    fn unexpected(self) -> Unexpected<'a> {
        match self.0 {
            Value::Null => Unexpected::Unit,
            Value::Bool(b) => Unexpected::Bool(*b),
            Value::String(s) => Unexpected::Str(s),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
            Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(n), ..) => Unexpected::Signed(n),
                (_, Some(n), _) => Unexpected::Unsigned(n),
                (.., n) => Unexpected::Float(n.unwrap_or(0.0)),
            },
        }
    }

    fn is_last_day(self) -> bool {
        self.0.as_str().is_some_and(|text| text.starts_with("9999-12-3") && text.parse::<Timestamp>().is_err())
    }
}

/// Numbers: null is 0, and one that was written with a fraction of nothing is whole.
macro_rules! number {
    ($($method:ident $visit:ident $zero:literal),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.0 {
                Value::Null => visitor.$visit($zero),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

/// What reads a type is made again for each kind of list and map that it may be read from: there is one of each, empty or not.
impl<'de> Deserializer<'de> for Go<'de> {
    type Error = Fault;

    number! {
        deserialize_bool visit_bool false, deserialize_i8 visit_i64 0, deserialize_i16 visit_i64 0, deserialize_i32 visit_i64 0,
        deserialize_i64 visit_i64 0, deserialize_u8 visit_u64 0, deserialize_u16 visit_u64 0, deserialize_u32 visit_u64 0,
        deserialize_u64 visit_u64 0, deserialize_f32 visit_f64 0.0, deserialize_f64 visit_f64 0.0, deserialize_str visit_borrowed_str "",
        deserialize_string visit_borrowed_str "", deserialize_identifier visit_borrowed_str "", deserialize_bytes visit_borrowed_bytes b"",
        deserialize_byte_buf visit_borrowed_bytes b""
    }

    forward_to_deserialize_any! { char unit unit_struct enum }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::String(s) => visitor.visit_borrowed_str(s),
            Value::Array(list) => visitor.visit_seq(Items(list.iter().enumerate())),
            Value::Object(map) => visitor.visit_map(Entries { left: map.iter(), value: None }),
            Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(n), ..) => visitor.visit_i64(n),
                (_, Some(n), _) => visitor.visit_u64(n),
                (.., n) => visitor.visit_f64(n.unwrap_or(0.0)),
            },
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        match name {
            "Time" | "MicroTime" if self.0.is_null() => visitor.visit_newtype_struct(Go(&ZERO_TIME)),
            "Time" | "MicroTime" if self.is_last_day() => visitor.visit_newtype_struct(Go(&LAST_TIME)),
            "Quantity" if self.0.is_null() => visitor.visit_newtype_struct(Go(&ZERO)),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items: &[Value] = match self.0 {
            Value::Null => &[],
            Value::Array(items) => items,
            _ => return Err(de::Error::invalid_type(self.unexpected(), &visitor)),
        };
        visitor.visit_seq(Items(items.iter().enumerate()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let entries = match self.0 {
            Value::Null => &*NOTHING,
            Value::Object(entries) => entries,
            _ => return Err(de::Error::invalid_type(self.unexpected(), &visitor)),
        };
        visitor.visit_map(Entries { left: entries.iter(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, item)) = self.0.next() else { return Ok(None) };
        seed.deserialize(Go(item)).map(Some).map_err(|fault| fault.at(Step::Index(index)))
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.value = self.left.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let (key, value) = self.value.ok_or_else(|| <Fault as de::Error>::custom("a value without its key"))?;
        seed.deserialize(Go(value)).map_err(|fault| fault.at(Step::Key(key.clone())))
    }
}
