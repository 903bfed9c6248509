//! The last hour, one point per minute: speed and time to first token of each model's answers, from access logs. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::logs::Request;
use crate::speed;

/// How many minutes the charts show.
const MINUTES: u64 = 60;

/// The answers of the last hour, by model and minute.
#[derive(Debug, Default)]
pub(super) struct Hour {
    models: BTreeMap<String, BTreeMap<u64, Minute>>,
}

/// The answers that ended within one minute.
#[derive(Debug, Default, Clone)]
struct Minute {
    tokens: u64,
    /// Time in which these tokens were generated.
    time: Duration,
    /// Time to first token of each, milliseconds.
    first: Vec<f64>,
}

/// The points of one model, oldest first.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Line {
    pub model: String,
    pub points: Vec<Point>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Point {
    /// Start of the minute, milliseconds since the epoch.
    pub at: u64,
    /// Speed of one answer; null if none was long enough.
    pub tokens_per_second: Option<f64>,
    /// Median time to first token, milliseconds.
    pub first_ms: Option<f64>,
}

impl Hour {
    /// Counts a request, if it was answered with tokens within the last hour.
    pub(super) fn add(&mut self, request: &Request, now: SystemTime) {
        let Ok(at) = humantime::parse_rfc3339(&request.at) else { return };
        let minute = minute(at);
        if request.tokens == 0 || minute + MINUTES < self::minute(now) || self::minute(now) < minute {
            return;
        }
        let of_model = self.models.entry(request.model.clone()).or_default();
        let entry = of_model.entry(minute).or_default();
        let span = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
        // There is one interval less than there are tokens. Without a stream, the time of the first token is unknown.
        let (tokens, time) = match request.first_ms {
            Some(first) => (request.tokens - 1, span(request.total_ms - first)),
            None => (request.tokens, span(request.total_ms - request.wait_ms)),
        };
        if speed::per_second(tokens, time).is_some() {
            entry.tokens += tokens;
            entry.time += time;
        }
        entry.first.extend(request.first_ms);
    }

    /// The lines to draw; forgets what is older than an hour.
    pub(super) fn lines(&mut self, now: SystemTime) -> Vec<Line> {
        let since = minute(now).saturating_sub(MINUTES);
        self.models.retain(|_, minutes| {
            minutes.retain(|minute, _| *minute >= since);
            !minutes.is_empty()
        });
        let line = |(model, minutes): (&String, &BTreeMap<u64, Minute>)| Line {
            model: model.clone(),
            points: minutes.iter().map(|(minute, found)| found.point(*minute)).collect(),
        };
        self.models.iter().map(line).collect()
    }
}

impl Minute {
    fn point(&self, minute: u64) -> Point {
        let mut first = self.first.clone();
        first.sort_by(f64::total_cmp);
        Point {
            at: minute * 60_000,
            tokens_per_second: speed::per_second(self.tokens, self.time),
            first_ms: first.get(first.len() / 2).copied(),
        }
    }
}

/// Whole minutes since the Unix epoch.
fn minute(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(at: &str, model: &str, tokens: u64, first: &str, total: f64) -> Request {
        let line = format!(
            "2026-02-08T{at}Z 127.0.0.1 - r POST /v1/chat/completions 200 in=1 out=1 prompt=9 cached=0 tokens={tokens} \
             wait=0ms {first}total={total:.1}ms sent=1 ok"
        );
        Request::parse(model, &line).unwrap()
    }

    fn at(time: &str) -> SystemTime {
        humantime::parse_rfc3339(&format!("2026-02-08T{time}Z")).unwrap()
    }

    #[test]
    fn a_minute_has_the_speed_of_its_answers_and_their_median_first_token() {
        let (mut hour, now) = (Hour::default(), at("10:00:30"));
        hour.add(&request("09:59:01.000", "a", 101, "first=1000.0ms ", 6000.0), now);
        hour.add(&request("09:59:02.000", "a", 51, "first=2000.0ms ", 12_000.0), now);
        hour.add(&request("09:59:03.000", "a", 3, "first=9000.0ms ", 9001.0), now);
        hour.add(&request("09:30:03.000", "b", 40, "", 4000.0), now);
        let lines = hour.lines(now);
        let (a, b) = (&lines[0], &lines[1]);
        assert_eq!((a.model.as_str(), a.points.len()), ("a", 1));
        assert_eq!((a.points[0].tokens_per_second, a.points[0].first_ms), (Some(10.0), Some(2000.0)));
        assert_eq!((b.points[0].tokens_per_second, b.points[0].first_ms), (Some(10.0), None));
        assert_eq!(a.points[0].at % 60_000, 0);
    }

    #[test]
    fn answers_older_than_an_hour_or_without_tokens_are_left_out() {
        let (mut hour, now) = (Hour::default(), at("10:00:30"));
        hour.add(&request("08:58:01.000", "a", 101, "first=1.0ms ", 6000.0), now);
        hour.add(&request("09:58:01.000", "a", 0, "", 6000.0), now);
        hour.add(&request("11:58:01.000", "a", 9, "", 6000.0), now);
        assert_eq!(hour.lines(now), []);
        hour.add(&request("09:58:01.000", "a", 9, "", 6000.0), now);
        assert_eq!(hour.lines(now).len(), 1);
        assert_eq!(hour.lines(at("11:10:00")), []);
        assert!(hour.models.is_empty());
    }
}
