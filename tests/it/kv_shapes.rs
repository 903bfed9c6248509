//! What the estimate says of a model's caches is what mlx_lm keeps.

use mlxctl::memory::shape::{Precision, Shape};
use serde::Deserialize;

use crate::real;

#[derive(Deserialize)]
struct Case {
    name: String,
    config: String,
    tokens: u64,
    activation: u64,
    bits: Option<u64>,
    bytes: u64,
}

#[test]
fn caches_are_estimated_to_the_byte_for_every_kind_of_layer() {
    let output = std::process::Command::new(real::python())
        .args(["-c", include_str!("kv_shapes.py")])
        .output()
        .expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut wrong = Vec::new();
    for case in &cases {
        let shape = Shape::parse(&case.config).unwrap_or_else(|problem| panic!("{}: {problem}", case.name));
        assert!(shape.known, "{} counts as unknown", case.name);
        let precision =
            Precision { activation: case.activation, quantized: case.bits.map(|bits| (bits, 64, 0)) };
        let bytes = shape.kv(case.tokens, precision).0;
        if bytes != case.bytes {
            wrong.push(format!(
                "{}, {} tokens, {} bytes an element: {bytes} estimated, {} kept",
                case.name, case.tokens, case.activation, case.bytes
            ));
        }
    }
    let families: std::collections::BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert!(families.len() >= 18, "{families:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
