//! The wire format of protocol buffers, as far as OTLP's metrics and Prometheus' need it, written straight into bytes.
//!
//! Which field is which, the two encoders know. A tree of messages takes a hundred thousand allocations for one push of a full node. As in the generated code, a
//! number that is 0 and a text that is empty are left out, unless they are one of several or optional.

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

/// A short message within a message, or anything else that has a length before it.
pub(super) fn nested(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    with_length(out, field, 1, write);
}

/// The same for what is mostly longer than 127 bytes.
pub(super) fn nested_long(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    with_length(out, field, 2, write);
}

/// A message behind its length alone, as in a stream of them; mostly a long one.
pub(super) fn delimited(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    behind_length(out, 3, write);
}

fn with_length(out: &mut Vec<u8>, field: u32, room: usize, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH);
    behind_length(out, room, write);
}

/// Leaves `room` bytes for the length. What was written behind them is moved only where the length takes another number
/// of bytes.
fn behind_length(out: &mut Vec<u8>, room: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.resize(at + room, 0);
    write(out);
    let length = out.len() - at - room;
    let bytes = varint_bytes(length);
    if bytes != room {
        out.resize(at + length + room.max(bytes), 0);
        out.copy_within(at + room..at + room + length, at + bytes);
        out.truncate(at + bytes + length);
    }
    let mut rest = length as u64;
    for (place, byte) in out.iter_mut().skip(at).take(bytes).enumerate() {
        *byte = if place + 1 < bytes { 0x80 } else { 0 } | low_bits(rest);
        rest >>= 7;
    }
}

pub(super) fn string(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        strings(out, field, &[text]);
    }
}

/// One text in parts.
pub(super) fn strings(out: &mut Vec<u8>, field: u32, parts: &[&str]) {
    tag(out, field, LENGTH);
    varint(out, parts.iter().map(|part| part.len() as u64).sum());
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// An unsigned number, a truth value or a member of an enumeration.
pub(super) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        number_always(out, field, value);
    }
}

/// The same for a number whose absence would not be understood as 0.
pub(super) fn number_always(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

/// A signed number, small ones of either sign in few bytes.
pub(super) fn signed(out: &mut Vec<u8>, field: u32, value: i32) {
    number(out, field, zigzag(i64::from(value)));
}

/// A signed number as an unsigned one that is small where the number is near 0.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) fn fixed(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        fixed_always(out, field, value);
    }
}

pub(super) fn fixed_always(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Numbers of eight bytes, one after the other.
pub(super) fn fixed_list(out: &mut Vec<u8>, field: u32, values: impl Iterator<Item = u64>) {
    nested(out, field, |out| values.for_each(|value| out.extend_from_slice(&value.to_le_bytes())));
}

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(0x80 | low_bits(value));
        value >>= 7;
    }
    out.push(low_bits(value));
}

fn tag(out: &mut Vec<u8>, field: u32, kind: u32) {
    varint(out, u64::from(field << 3 | kind));
}

fn varint_bytes(value: usize) -> usize {
    (usize::BITS - value.leading_zeros()).div_ceil(7).max(1) as usize
}

fn low_bits(value: u64) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
    use prost::Message;

    use super::with_length;

    #[test]
    fn a_length_takes_as_many_bytes_as_it_needs() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let content: Vec<u8> = (0..length).map(|byte: u32| byte.to_le_bytes()[0]).collect();
            // A value of bytes is field 7.
            let expected = AnyValue { value: Some(Value::BytesValue(content.clone())) }.encode_to_vec();
            for room in [1, 2] {
                let mut out = Vec::new();
                with_length(&mut out, 7, room, |out| out.extend_from_slice(&content));
                assert!(out == expected, "{length} bytes, room for {room}");
            }
        }
    }
}
