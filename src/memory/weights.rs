//! Safetensors headers and indexes: the exact size of a model's weights, without reading the weights.
//!
//! Format: 8 bytes of little-endian header length N, N bytes of JSON, then the data. Every tensor has a dtype, a shape
//! and a byte range, and the ranges cover the data without holes (safetensors README, "Format").

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::units::Bytes;

/// Longest header that is read, bytes, as in the reference implementation. Nothing is allocated for a longer one: the
/// length field of a malformed file can say 2⁶⁴−1.
pub(crate) const HEADER_LIMIT: u64 = 100_000_000;

/// Totals of one safetensors file, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    pub tensors: usize,
    /// Bytes of all tensors, which is what MLX allocates for them.
    pub bytes: Bytes,
    /// Bytes of floating-point tensors by element size: `[2 bytes, 4 bytes]`. They show which type MLX computes in:
    /// quantised weights are integers with scales of that type.
    pub float_bytes: [u64; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// As in the file: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub bytes: u64,
}

impl Named {
    /// Whether it belongs to a numbered layer, by its name.
    pub(crate) fn in_a_layer(&self) -> bool {
        let number = |rest: &str| rest.split('.').next().is_some_and(|word| word.parse::<u32>().is_ok());
        self.name.strip_prefix("layers.").is_some_and(number)
            || self.name.split(".layers.").skip(1).any(number)
    }
}

impl Header {
    /// Bytes of one element of an activation or a KV cache: 4 where most floating-point weights are float32, else 2.
    /// `None`: there are none.
    pub fn activation(&self) -> Option<u64> {
        match self.float_bytes {
            [0, 0] => None,
            [two, four] => Some(if four > two { 4 } else { 2 }),
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            tensors: self.tensors.saturating_add(other.tensors),
            bytes: self.bytes + other.bytes,
            float_bytes: [0, 1].map(|n| self.float_bytes[n].saturating_add(other.float_bytes[n])),
        }
    }
}

/// The header's length in bytes, from the first eight bytes of a file of `file_length` bytes.
///
/// # Errors
/// The file is shorter than its header, or the header longer than [`HEADER_LIMIT`].
pub(crate) fn header_length(first: [u8; 8], file_length: u64) -> Result<u64, String> {
    let length = u64::from_le_bytes(first);
    if length > HEADER_LIMIT {
        return Err(format!("its header says that it is {length} bytes long"));
    }
    if length.saturating_add(8) > file_length {
        return Err(format!(
            "it is cut off after {file_length} bytes: the header alone needs {}",
            length + 8
        ));
    }
    Ok(length)
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Bits of one element, and whether it is floating-point of at least 16 bits.
fn element(dtype: &str) -> Option<(u64, bool)> {
    Some(match dtype {
        "F4" => (4, false),
        "F6_E2M3" | "F6_E3M2" => (6, false),
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => (8, false),
        "F16" | "BF16" => (16, true),
        "U16" | "I16" => (16, false),
        "F32" => (32, true),
        "U32" | "I32" => (32, false),
        "U64" | "I64" | "F64" | "C64" => (64, false),
        _ => return None,
    })
}

/// Parses a header and checks that it describes exactly the `data_length` bytes that follow it.
///
/// # Errors
/// One sentence about what does not match.
pub(crate) fn parse_header(json: &[u8], data_length: u64) -> Result<(Header, Vec<Named>), String> {
    let entries: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|error| format!("its header is not a JSON object: {error}"))?;
    let mut header = Header::default();
    let (mut ranges, mut tensors) = (Vec::new(), Vec::new());
    for (name, value) in entries {
        if name == "__metadata__" {
            continue;
        }
        let tensor: Tensor =
            serde_json::from_value(value).map_err(|error| format!("tensor `{name}`: {error}"))?;
        let (bits, float) = element(&tensor.dtype)
            .ok_or_else(|| format!("tensor `{name}` is of unknown type {}", tensor.dtype))?;
        let (begin, end) = tensor.data_offsets;
        let size = tensor
            .shape
            .iter()
            .try_fold(1_u64, |size, n| size.checked_mul(*n))
            .and_then(|elements| elements.checked_mul(bits))
            .map(|bits| bits.div_ceil(8))
            .ok_or_else(|| format!("tensor `{name}` is larger than any machine"))?;
        if end.checked_sub(begin) != Some(size) {
            return Err(format!("tensor `{name}` needs {size} bytes and names the range {begin}..{end}"));
        }
        if end > data_length {
            return Err(format!("it is cut off: tensor `{name}` ends at byte {end} of {data_length}"));
        }
        ranges.push((begin, end));
        header.tensors += 1;
        // Bytes saturate; below, ranges that overlap or leave the file are rejected.
        header.bytes += Bytes(size);
        if float {
            let slot = &mut header.float_bytes[usize::from(bits == 32)];
            *slot = slot.saturating_add(size);
        }
        tensors.push(Named { name, bytes: size });
    }
    ranges.sort_unstable();
    let mut at = 0;
    for (begin, end) in ranges {
        if begin != at {
            return Err(format!("its tensors overlap or leave a hole at byte {at}"));
        }
        at = end;
    }
    if at != data_length {
        return Err(format!("its tensors end at byte {at}, the file at {data_length}"));
    }
    Ok((header, tensors))
}

/// The file names in an index (`model.safetensors.index.json`).
///
/// # Errors
/// One sentence: it is not an index, or it names a file outside its folder.
pub(crate) fn parse_index(json: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    if files.is_empty() {
        return Err("it names no file".to_owned());
    }
    match files.iter().find(|file| file.contains(['/', '\\', '\0']) || file.starts_with('.')) {
        Some(file) => Err(format!("it names `{file}`, which is not a plain file name")),
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"__metadata__":{"format":"mlx"},
        "a":{"dtype":"U32","shape":[2,4],"data_offsets":[0,32]},
        "b":{"dtype":"BF16","shape":[3],"data_offsets":[32,38]}}"#;

    #[test]
    fn a_header_gives_the_exact_bytes() {
        let (header, tensors) = parse_header(GOOD.as_bytes(), 38).unwrap();
        assert_eq!(tensors.iter().map(|tensor| tensor.bytes).collect::<Vec<_>>(), [32, 6]);
        assert_eq!((header.tensors, header.bytes, header.activation()), (2, Bytes(38), Some(2)));
    }

    #[test]
    fn truncated_and_inconsistent_headers_are_named() {
        let error = |json: &str, length| parse_header(json.as_bytes(), length).unwrap_err();
        assert!(error(GOOD, 37).contains("cut off"), "{}", error(GOOD, 37));
        assert!(error(GOOD, 39).contains("the file at 39"));
        let lie = |shape: &str, range: &str| {
            error(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{range}}}}}"#), 64)
        };
        assert!(lie("[16]", "[0,63]").contains("needs 64 bytes"));
        assert!(lie("[16]", "[64,0]").contains("names the range 64..0"));
        assert!(lie("[18446744073709551615,9]", "[0,64]").contains("larger than any machine"));
        assert!(lie("[-1]", "[0,64]").contains("tensor `a`"));
        assert!(lie("[8]", "[32,64]").contains("hole at byte 0"));
        assert!(error(&GOOD.replace("U32", "Q7"), 38).contains("unknown type Q7"));
        assert!(error("[]", 0).contains("not a JSON object"));
    }

    #[test]
    fn a_header_length_of_two_to_the_64_is_refused_before_anything_is_allocated() {
        assert!(header_length([0xff; 8], u64::MAX).unwrap_err().contains("18446744073709551615"));
        assert!(header_length(1000_u64.to_le_bytes(), 100).unwrap_err().contains("cut off"));
        assert_eq!(header_length(92_u64.to_le_bytes(), 100), Ok(92));
    }

    #[test]
    fn an_index_names_plain_files_only() {
        let index = |file: &str| parse_index(format!(r#"{{"weight_map":{{"w":"{file}"}}}}"#).as_bytes());
        assert_eq!(index("model.safetensors").unwrap().len(), 1);
        for bad in ["../model.safetensors", "/etc/passwd", ".hidden"] {
            assert!(index(bad).unwrap_err().contains("not a plain file name"), "{bad}");
        }
        assert!(parse_index(br#"{"weight_map":{}}"#).is_err());
        assert!(parse_index(br#"{"weight_map":{"w":7}}"#).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length: u64) {
            let _ = parse_header(&bytes, length);
            let _ = parse_index(&bytes);
        }

        #[test]
        fn a_damaged_header_never_claims_more_than_the_file_holds(
            at in 0..GOOD.len(), byte: u8, length in 0_u64..100,
        ) {
            let mut bytes = GOOD.as_bytes().to_vec();
            bytes[at] = byte;
            if let Ok((header, _)) = parse_header(&bytes, length) {
                prop_assert_eq!(header.bytes, Bytes(length));
            }
        }
    }
}
