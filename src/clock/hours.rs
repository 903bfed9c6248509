//! Hours of the day, by the wall clock. Pure: only the time of day decides whether they are open, so a clock that jumps
//! (a time zone, summer time, a person) is right again at the next check. An hour that occurs twice counts twice, and a
//! skipped one is missing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const DAY: u32 = 24 * 3600;

/// A time of day in minutes, 00:00 to 24:00; the last only as an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay(u16);

/// Seconds since midnight by the wall clock, below 86,400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    seconds: u32,
}

/// Ranges between two times of day, each across midnight if it ends before it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours(Vec<(TimeOfDay, TimeOfDay)>);

/// Why a string is not a range of hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoursError {
    #[error("is not two times of day with a `-` between them")]
    Shape,
    #[error("begins and ends at the same time, which may be all of the day or none of it")]
    Empty,
}

impl LocalTime {
    /// `seconds` since midnight, modulo a day.
    pub fn of(seconds: u32) -> Self {
        Self { seconds: seconds % DAY }
    }

    /// Seconds until the clock next shows `then`, 1 to 86,400.
    fn until(self, then: TimeOfDay) -> u32 {
        let left = (u32::from(then.0) * 60 + DAY - self.seconds) % DAY;
        if left == 0 { DAY } else { left }
    }
}

impl FromStr for TimeOfDay {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let number = |digits: &str, most: u16| {
            let well = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|number: &u16| well && *number <= most).ok_or(HoursError::Shape)
        };
        let (hours, minutes) = text.split_once(':').ok_or(HoursError::Shape)?;
        let time = number(hours, 24)? * 60 + number(minutes, 59)?;
        if time <= 24 * 60 { Ok(Self(time)) } else { Err(HoursError::Shape) }
    }
}

impl Hours {
    /// Parses ranges such as `08:00-23:30`.
    ///
    /// # Errors
    /// The index of the first invalid one, and why.
    pub fn parse<'a>(ranges: impl IntoIterator<Item = &'a str>) -> Result<Self, (usize, HoursError)> {
        let ranges = ranges.into_iter().enumerate();
        let ranges: Result<Vec<_>, _> =
            ranges.map(|(index, text)| range(text).map_err(|error| (index, error))).collect();
        ranges.map(Self)
    }

    pub fn open(&self, at: LocalTime) -> bool {
        let holds = |(from, to): &(TimeOfDay, TimeOfDay)| {
            let minute = u16::try_from(at.seconds / 60).unwrap_or_default();
            if from < to { (from.0..to.0).contains(&minute) } else { minute >= from.0 || minute < to.0 }
        };
        self.0.iter().any(holds)
    }

    /// When they open or close next, and in how long; `None` if never.
    pub fn next(&self, at: LocalTime) -> Option<(TimeOfDay, Duration)> {
        let now = self.open(at);
        let bounds = self.0.iter().flat_map(|(from, to)| [*from, TimeOfDay(to.0 % (24 * 60))]);
        let changes = bounds.filter(|bound| self.open(LocalTime::of(u32::from(bound.0) * 60)) != now);
        let next = changes.min_by_key(|bound| at.until(*bound))?;
        Some((next, Duration::from_secs(at.until(next).into())))
    }
}

fn range(text: &str) -> Result<(TimeOfDay, TimeOfDay), HoursError> {
    let (from, to) = text.split_once('-').ok_or(HoursError::Shape)?;
    let (from, to): (TimeOfDay, TimeOfDay) = (from.trim().parse()?, to.trim().parse()?);
    match from.0 {
        _ if from == to => Err(HoursError::Empty),
        begin if begin == 24 * 60 => Err(HoursError::Shape),
        _ => Ok((from, to)),
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, to)) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { ", " };
            write!(f, "{between}{from}-{to}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> LocalTime {
        LocalTime::of(u32::from(text.parse::<TimeOfDay>().unwrap().0) * 60)
    }

    fn hours(ranges: &[&str]) -> Hours {
        Hours::parse(ranges.iter().copied()).unwrap()
    }

    fn next(hours: &Hours, now: &str) -> (String, u64) {
        let (then, left) = hours.next(at(now)).unwrap();
        (then.to_string(), left.as_secs() / 60)
    }

    #[test]
    fn a_day_opens_and_closes_at_its_minutes() {
        let day = hours(&["08:00-23:30"]);
        let open = ["07:59", "08:00", "23:29", "23:30", "00:00"].map(|time| day.open(at(time)));
        assert_eq!(open, [false, true, true, false, false]);
        assert_eq!(next(&day, "07:59"), ("08:00".to_owned(), 1));
        assert_eq!(next(&day, "08:00"), ("23:30".to_owned(), 930));
        assert_eq!(next(&day, "23:30"), ("08:00".to_owned(), 510));
        assert_eq!(day.to_string(), "08:00-23:30");
    }

    #[test]
    fn a_night_goes_across_midnight_and_ranges_that_touch_are_one() {
        let night = hours(&["20:00-02:00"]);
        let open = ["19:59", "20:00", "00:00", "01:59", "02:00"].map(|time| night.open(at(time)));
        assert_eq!(open, [false, true, true, true, false]);
        assert_eq!(next(&night, "23:00"), ("02:00".to_owned(), 180));
        let two = hours(&["08:00-12:00", "13:00-24:00"]);
        assert_eq!(next(&two, "11:00"), ("12:00".to_owned(), 60));
        assert_eq!(next(&two, "12:00"), ("13:00".to_owned(), 60));
        assert_eq!(next(&two, "14:00"), ("00:00".to_owned(), 600));
        let one = hours(&["08:00-12:00", "11:00-13:00", "13:00-14:00"]);
        assert_eq!(next(&one, "09:00"), ("14:00".to_owned(), 300));
        assert_eq!(hours(&["00:00-24:00"]).next(at("05:00")), None);
        assert_eq!(hours(&["12:00-00:00", "00:00-12:00"]).next(at("05:00")), None);
    }

    #[test]
    fn seconds_count_until_a_boundary_and_none_is_now() {
        let day = hours(&["08:00-23:30"]);
        let (_, left) = day.next(LocalTime::of(7 * 3600 + 59 * 60 + 59)).unwrap();
        assert_eq!(left, Duration::from_secs(1));
        let (_, left) = hours(&["08:00-09:00"]).next(at("09:00")).unwrap();
        assert_eq!(left, Duration::from_secs(23 * 3600));
    }

    #[test]
    fn what_is_no_range_says_why() {
        let wrong = |text: &str| Hours::parse(["08:00-09:00", text]).unwrap_err();
        for text in
            ["08:00", "8-23", "08:00-25:00", "24:00-08:00", "08:00-24:01", "8:00-09:00", "08:0a-09:00", ""]
        {
            assert_eq!(wrong(text), (1, HoursError::Shape), "{text}");
        }
        assert_eq!(wrong("08:00-08:00"), (1, HoursError::Empty));
    }
}
