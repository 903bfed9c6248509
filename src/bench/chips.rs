//! Memory bandwidth of chips, as published by their makers.

/// One chip, or one variant of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Chip {
    /// As `machdep.cpu.brand_string` or the NVIDIA driver names it.
    pub name: &'static str,
    /// CPU cores that distinguish this variant from others of the same name; 0: there is one variant.
    pub cores: u32,
    /// Memory bandwidth, GB/s of 10⁹ bytes.
    pub gigabytes: f64,
    pub source: &'static str,
}

const M1: &str = "Apple, technical specifications of Macs with M1 (support.apple.com/specs)";
const M2: &str = "Apple, technical specifications of Macs with M2 (support.apple.com/specs)";
const M3: &str = "Apple, technical specifications of Macs with M3 (support.apple.com/specs)";
const M4: &str = "Apple, technical specifications of Macs with M4 (support.apple.com/specs)";
const M5: &str = "Apple, technical specifications of Macs with M5 (support.apple.com/specs)";
const NVIDIA: &str = "NVIDIA, data sheet of the card";

/// `machdep.cpu.brand_string` does not tell the two GPUs of an M3 Max or M4 Max apart; the number of CPU cores does.
const CHIPS: &[Chip] = &[
    Chip { name: "Apple M1", cores: 0, gigabytes: 68.25, source: M1 },
    Chip { name: "Apple M1 Pro", cores: 0, gigabytes: 200.0, source: M1 },
    Chip { name: "Apple M1 Max", cores: 0, gigabytes: 400.0, source: M1 },
    Chip { name: "Apple M1 Ultra", cores: 0, gigabytes: 800.0, source: M1 },
    Chip { name: "Apple M2", cores: 0, gigabytes: 100.0, source: M2 },
    Chip { name: "Apple M2 Pro", cores: 0, gigabytes: 200.0, source: M2 },
    Chip { name: "Apple M2 Max", cores: 0, gigabytes: 400.0, source: M2 },
    Chip { name: "Apple M2 Ultra", cores: 0, gigabytes: 800.0, source: M2 },
    Chip { name: "Apple M3", cores: 0, gigabytes: 100.0, source: M3 },
    Chip { name: "Apple M3 Pro", cores: 0, gigabytes: 150.0, source: M3 },
    Chip { name: "Apple M3 Max", cores: 14, gigabytes: 300.0, source: M3 },
    Chip { name: "Apple M3 Max", cores: 16, gigabytes: 400.0, source: M3 },
    Chip { name: "Apple M3 Ultra", cores: 0, gigabytes: 819.0, source: M3 },
    Chip { name: "Apple M4", cores: 0, gigabytes: 120.0, source: M4 },
    Chip { name: "Apple M4 Pro", cores: 0, gigabytes: 273.0, source: M4 },
    Chip { name: "Apple M4 Max", cores: 14, gigabytes: 410.0, source: M4 },
    Chip { name: "Apple M4 Max", cores: 16, gigabytes: 546.0, source: M4 },
    Chip { name: "Apple M5", cores: 0, gigabytes: 153.0, source: M5 },
    Chip { name: "Apple M5 Pro", cores: 0, gigabytes: 307.0, source: M5 },
    Chip { name: "Apple M5 Max", cores: 0, gigabytes: 614.0, source: M5 },
    Chip { name: "NVIDIA A100-SXM4-80GB", cores: 0, gigabytes: 2039.0, source: NVIDIA },
    Chip { name: "NVIDIA H100 PCIe", cores: 0, gigabytes: 2000.0, source: NVIDIA },
    Chip { name: "NVIDIA H100 80GB HBM3", cores: 0, gigabytes: 3350.0, source: NVIDIA },
    Chip { name: "NVIDIA H200", cores: 0, gigabytes: 4800.0, source: NVIDIA },
];

/// The chip of that name and number of CPU cores; `None` if the name has variants and the number fits none of them.
pub(crate) fn find(name: &str, cores: u32) -> Option<&'static Chip> {
    let is = |chip: &&Chip| {
        chip.name.eq_ignore_ascii_case(name.trim()) && (chip.cores == 0 || chip.cores == cores)
    };
    CHIPS.iter().find(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_m4_max_are_told_apart_by_their_cores() {
        let of = |name, cores| find(name, cores).map(|chip| chip.gigabytes);
        assert_eq!(of("Apple M4 Max", 16), Some(546.0));
        assert_eq!(of("Apple M4 Max", 14), Some(410.0));
        assert_eq!(of("Apple M4 Max", 12), None, "an unknown variant is not guessed");
        assert_eq!(of("apple m4 ", 10), Some(120.0));
        assert_eq!(of("Apple M9", 10), None);
        assert_eq!(of("Intel(R) Xeon(R) Platinum 8481C", 2), None);
    }

    #[test]
    fn no_chip_is_in_the_table_twice() {
        for (index, chip) in CHIPS.iter().enumerate() {
            let same =
                |other: &&Chip| other.name == chip.name && (other.cores == chip.cores || other.cores == 0);
            assert_eq!(CHIPS.iter().filter(same).count(), 1, "{}: {index}", chip.name);
        }
    }
}
