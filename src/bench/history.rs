//! Earlier runs on this machine: `<state>/bench.jsonl`, a report a line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::Report;
use super::stats::Stats;

/// So many earlier runs are compared with, the newest ones.
const RECENT: usize = 5;
/// What two runs differ by on a quiet machine without meaning anything, as a share.
const NOISE: f64 = 0.10;
/// Reports beyond so many are forgotten, oldest first.
const KEPT: usize = 1000;

/// The runs that can be compared with one, and what they say of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub runs: usize,
    /// When the oldest of them was.
    pub since: String,
    /// Their decode of one stream, tokens a second.
    pub tokens_per_second: Stats,
    /// This run's median over theirs, less one: −0.12 is 12 % slower.
    pub change: f64,
    /// In one word.
    pub verdict: Verdict,
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within what runs differ by anyway.
    Same,
    /// Better than that.
    Faster,
    /// Worse than that: a regression.
    Slower,
}

/// The file of an instance.
#[must_use]
pub fn file(state: &Path) -> PathBuf {
    state.join("bench.jsonl")
}

/// All that can be read, oldest first, and how many lines could not.
///
/// # Errors
/// The system's own, other than that there is no file yet.
pub fn read(file: &Path) -> io::Result<(Vec<Report>, usize)> {
    let text = match fs_err::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let read: Vec<_> = lines.map(serde_json::from_str::<Report>).collect();
    let broken = read.iter().filter(|line| line.is_err()).count();
    Ok((read.into_iter().flatten().collect(), broken))
}

/// Adds a report, and forgets the oldest where there are too many.
///
/// # Errors
/// The system's own.
pub fn add(file: &Path, report: &Report) -> io::Result<()> {
    let line = serde_json::to_string(report)?;
    if let Some(folder) = file.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let text = fs_err::read_to_string(file).unwrap_or_default();
    if text.lines().count() >= KEPT {
        let kept: Vec<&str> = text.lines().skip(text.lines().count() + 1 - KEPT).collect();
        let mut fresh = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
        writeln!(fresh, "{}\n{line}", kept.join("\n"))?;
        fresh.persist(file).map_err(|error| error.error)?;
        return Ok(());
    }
    // A line that a crash cut short must not swallow this one.
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let mut out = fs_err::OpenOptions::new().create(true).append(true).open(file)?;
    out.write_all(format!("{gap}{line}\n").as_bytes())
}

/// Holds a run against the newest comparable ones; `None` without any.
#[must_use]
pub fn compare(now: &Report, earlier: &[Report]) -> Option<Comparison> {
    let speed = |report: &Report| report.measured.one_stream().map(|decode| decode.tokens_per_second.median);
    let same = |report: &&Report| {
        (&report.repo, &report.settings, &report.chip, report.process_type)
            == (&now.repo, &now.settings, &now.chip, now.process_type)
            && report.roofline.as_ref().map(|limit| limit.bytes_per_token)
                == now.roofline.as_ref().map(|limit| limit.bytes_per_token)
    };
    let comparable: Vec<&Report> =
        earlier.iter().filter(same).filter(|report| speed(report).is_some()).collect();
    let recent = comparable.get(comparable.len().saturating_sub(RECENT)..)?;
    let speeds: Vec<f64> = recent.iter().filter_map(|report| speed(report)).collect();
    let tokens_per_second = Stats::of(&speeds)?;
    let change = speed(now)? / tokens_per_second.median - 1.0;
    // Runs that differ much among themselves prove little.
    let noise = NOISE.max(tokens_per_second.spread());
    let verdict = match change {
        change if change < -noise => Verdict::Slower,
        change if change > noise => Verdict::Faster,
        _ => Verdict::Same,
    };
    Some(Comparison {
        runs: recent.len(),
        since: recent.first()?.at.clone(),
        tokens_per_second,
        change,
        verdict,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::report::SCHEMA;
    use super::super::run::{Decode, Measured};
    use super::*;
    use crate::registry::ProcessType;

    pub fn report(speed: f64) -> Report {
        let stats = Stats::of(&[speed]).unwrap();
        let decode = |streams: u32| Decode {
            streams,
            tokens_per_second: Stats::of(&[speed * f64::from(streams) * 0.75]).unwrap(),
            each: stats,
            ttft_ms: stats,
        };
        let one = Decode { streams: 1, tokens_per_second: stats, each: stats, ttft_ms: stats };
        Report {
            schema: SCHEMA,
            at: "2026-01-01T00:00:00Z".into(),
            version: "0".into(),
            model: "32b".into(),
            repo: "x/y".into(),
            settings: String::new(),
            url: "http://127.0.0.1:1".into(),
            chip: Some("Apple M4 Max".into()),
            cores: 16,
            process_type: ProcessType::Standard,
            measured: Measured { decode: vec![one, decode(2), decode(4)], ..Measured::default() },
            peak_bytes: None,
            roofline: None,
            roofline_unknown: None,
            share: None,
            target: None,
            target_verdict: None,
            earlier: None,
        }
    }

    #[test]
    fn a_regression_is_called_one_beside_the_newest_runs_of_the_same_settings() {
        let verdict = |now: f64, earlier: &[Report]| {
            compare(&report(now), earlier).map(|found| (found.runs, found.verdict))
        };
        let quiet: Vec<_> = [10.0, 25.0, 25.1, 24.9, 25.2, 24.8].map(report).into();
        assert_eq!(verdict(22.0, &quiet), Some((5, Verdict::Slower)), "the first one is too old to count");
        assert_eq!(verdict(24.0, &quiet), Some((5, Verdict::Same)));
        assert_eq!(verdict(39.0, &quiet), Some((5, Verdict::Faster)));
        let wild: Vec<_> = [15.0, 35.0].map(report).into();
        assert_eq!(verdict(20.0, &wild), Some((2, Verdict::Same)), "runs that differ by 40 % prove nothing");
        let other = Report { settings: "kv_bits = 4".into(), ..report(25.0) };
        assert_eq!(verdict(22.0, &[other]), None);
        assert_eq!(verdict(22.0, &[]), None);
    }

    #[test]
    fn a_cut_line_costs_that_line_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        assert_eq!(read(&file).unwrap(), (vec![], 0));
        add(&file, &report(25.0)).unwrap();
        let mut text = fs_err::read_to_string(&file).unwrap();
        text.push_str("{\"schema\":1,\"at\"");
        fs_err::write(&file, text).unwrap();
        add(&file, &report(26.0)).unwrap();
        let (reports, broken) = read(&file).unwrap();
        assert_eq!((reports, broken), (vec![report(25.0), report(26.0)], 1));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        let line = serde_json::to_string(&report(1.0)).unwrap();
        fs_err::write(&file, format!("{line}\n").repeat(KEPT)).unwrap();
        add(&file, &report(2.0)).unwrap();
        let (reports, broken) = read(&file).unwrap();
        assert_eq!((reports.len(), broken), (KEPT, 0));
        assert_eq!(reports.last(), Some(&report(2.0)));
    }
}
