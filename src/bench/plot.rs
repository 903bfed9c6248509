//! A report as a picture: decode by number of streams beside the limit, prefill by length. SVG by hand. Pure.

use std::fmt::Write as _;

use super::report::Report;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 350.0;
/// Of the plots, from above and below.
const TOP: f64 = 98.0;
const BOTTOM: f64 = 298.0;
/// Colours that stay apart in grey and for the colour-blind (Okabe and Ito, "Color Universal Design").
const BAR: &str = "#0072b2";
const LIMIT: &str = "#d55e00";
const TARGET: &str = "#009e73";

struct Bar {
    label: String,
    value: f64,
    low: f64,
    high: f64,
}

/// The whole file.
#[must_use]
pub fn svg(report: &Report) -> String {
    let decode: Vec<Bar> = report
        .measured
        .decode
        .iter()
        .map(|decode| bar(decode.streams.to_string(), &decode.tokens_per_second))
        .collect();
    let prefill: Vec<Bar> = report
        .measured
        .prefill
        .iter()
        .map(|prefill| bar(prefill.prompt_tokens.to_string(), &prefill.tokens_per_second))
        .collect();
    let measured = decode.iter().map(|bar| bar.high).fold(0.0, f64::max);
    let mut lines = Vec::new();
    if let Some(limit) = &report.roofline {
        let or_more = if limit.bandwidth.lower_bound { " or more" } else { "" };
        lines.push((
            limit.tokens_per_second,
            LIMIT,
            format!("one stream's limit {}{or_more}", number(limit.tokens_per_second)),
        ));
    }
    if let Some(target) = report.target {
        lines.push((target, TARGET, format!("target {}", number(target))));
    }
    // A limit far above everything would press the bars flat; it is named in the heading all the same.
    let far: Vec<String> =
        lines.iter().filter(|(at, ..)| *at > measured * 4.0).map(|(_, _, text)| text.clone()).collect();
    lines.retain(|(at, ..)| *at <= measured * 4.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"system-ui, Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let chip = report.chip.as_deref().unwrap_or("unknown chip");
    text(
        &mut out,
        20.0,
        26.0,
        "start",
        "font-size=\"15\" font-weight=\"600\"",
        &format!("{} on {chip}", report.repo),
    );
    let day = report.at.split('T').next().unwrap_or_default();
    let mut second = vec![day.to_owned(), format!("mlxctl {}", report.version)];
    second.extend((!report.settings.is_empty()).then(|| report.settings.clone()));
    second.extend(far.into_iter().map(|text| format!("{text}, outside the picture")));
    text(&mut out, 20.0, 45.0, "start", "fill=\"#666\"", &second.join(" · "));
    axis(&mut out, (70.0, 380.0), "decode, tok/s of all streams", "streams at once", &decode, &lines);
    axis(&mut out, (460.0, 740.0), "prefill, tok/s", "prompt tokens", &prefill, &[]);
    out.push_str("</svg>\n");
    out
}

fn bar(label: String, stats: &super::stats::Stats) -> Bar {
    Bar { label, value: stats.median, low: stats.min, high: stats.max }
}

type Line = (f64, &'static str, String);

#[expect(clippy::cast_precision_loss, reason = "a handful of bars")]
fn axis(out: &mut String, (left, right): (f64, f64), title: &str, below: &str, bars: &[Bar], lines: &[Line]) {
    text(out, left, TOP - 12.0, "start", "font-weight=\"600\"", title);
    if bars.is_empty() {
        text(out, left, TOP + 20.0, "start", "fill=\"#666\"", "not measured");
        return;
    }
    let most = bars.iter().map(|bar| bar.high).chain(lines.iter().map(|line| line.0)).fold(0.0, f64::max);
    let step = step(most);
    let top = (most / step).ceil().max(1.0) * step;
    let y = |value: f64| BOTTOM - value / top * (BOTTOM - TOP);
    let mut tick = 0.0;
    while tick <= top + step / 2.0 {
        let _ = writeln!(out, "<path d=\"M{left} {0:.1}H{right}\" stroke=\"#e5e5e5\"/>", y(tick));
        text(out, left - 8.0, y(tick) + 4.0, "end", "fill=\"#666\"", &number(tick));
        tick += step;
    }
    let slot = (right - left) / bars.len() as f64;
    for (index, bar) in bars.iter().enumerate() {
        let middle = left + slot * (index as f64 + 0.5);
        let half = (slot * 0.3).min(26.0);
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{BAR}\"/>",
            middle - half,
            y(bar.value),
            half * 2.0,
            BOTTOM - y(bar.value)
        );
        // From the least to the most of the measurements.
        let _ = writeln!(
            out,
            "<path d=\"M{middle:.1} {:.1}V{:.1}\" stroke=\"#222\" stroke-width=\"1.5\"/>",
            y(bar.low),
            y(bar.high)
        );
        text(out, middle, y(bar.high) - 6.0, "middle", "", &number(bar.value));
        text(out, middle, BOTTOM + 17.0, "middle", "", &bar.label);
    }
    for (index, (at, color, name)) in lines.iter().enumerate() {
        let dash = if index == 0 { "6 4" } else { "2 3" };
        let _ = writeln!(
            out,
            "<path d=\"M{left} {0:.1}H{right}\" stroke=\"{color}\" stroke-width=\"1.5\" stroke-dasharray=\"{dash}\"/>",
            y(*at)
        );
        // The legend stands where no bar can be.
        text(
            out,
            right,
            TOP - 12.0 - 14.0 * (lines.len() - 1 - index) as f64,
            "end",
            &format!("fill=\"{color}\""),
            name,
        );
    }
    text(out, f64::midpoint(left, right), BOTTOM + 36.0, "middle", "fill=\"#666\"", below);
}

/// A distance between ticks that is 1, 2 or 5 times a power of ten and makes about four of them.
fn step(most: f64) -> f64 {
    let rough = (most / 4.0).max(1e-6);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough)
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, more: &str, text: &str) {
    let safe = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{safe}</text>");
}

#[cfg(test)]
mod tests {
    use super::super::chips;
    use super::super::history::tests::report;
    use super::super::roofline::{Bandwidth, Roofline};
    use super::super::shape::Shape;
    use super::*;
    use crate::units::Bytes;

    #[test]
    fn every_measurement_and_the_limit_are_in_the_picture_and_names_are_escaped() {
        let shape = Shape { weights: Some(Bytes(18_431_289_344)), ..Shape::default() };
        let limit = Roofline::new(Bandwidth::of(chips::find("Apple M4 Max", 16).unwrap()), &shape);
        let picture =
            svg(&Report { repo: "a<b>&c".into(), roofline: limit, target: Some(30.0), ..report(25.0) });
        assert_eq!(picture.matches("<rect x=").count(), 3);
        for text in [">25<", ">37.5<", ">75<", ">one stream's limit 29.6<", ">target 30<", "a&lt;b&gt;&amp;c"]
        {
            assert!(picture.contains(text), "{text} in {picture}");
        }
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn nothing_measured_is_said_and_not_drawn() {
        let mut empty = report(25.0);
        empty.measured.decode.clear();
        assert_eq!(svg(&empty).matches("not measured").count(), 2);
    }

    #[test]
    fn ticks_are_round_numbers() {
        for (most, wanted) in [(29.6, 10.0), (100.0, 50.0), (3.0, 1.0), (1234.0, 500.0), (0.0, 1e-6)] {
            assert!((step(most) / wanted - 1.0).abs() < 1e-6, "{most}: {}", step(most));
        }
    }
}
