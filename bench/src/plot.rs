//! A plot of some lines, as SVG that a page embeds.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// The size of a plot, which the page scales to its own.
const WIDTH: u32 = 640;
const HEIGHT: u32 = 400;
const FONT_SIZE: u32 = 16;
/// Colours that are told apart on a light and on a dark ground.
const COLOURS: [RGBColor; 14] = [
    RGBColor(0x25, 0x8c, 0xf5),
    RGBColor(0xe8, 0x4a, 0x4a),
    RGBColor(0x12, 0xa5, 0x7a),
    RGBColor(0xe0, 0x8e, 0x0b),
    RGBColor(0x96, 0x6a, 0xf0),
    RGBColor(0xe0, 0x50, 0x9e),
    RGBColor(0x10, 0xa3, 0xb5),
    RGBColor(0x7d, 0xa3, 0x1c),
    RGBColor(0xb0, 0x78, 0x50),
    RGBColor(0x80, 0x88, 0x98),
    RGBColor(0x5b, 0x62, 0xe8),
    RGBColor(0xc7, 0x5a, 0x2c),
    RGBColor(0xc0, 0x52, 0xd8),
    RGBColor(0x2f, 0x9e, 0x3f),
];

/// A line with a name. `colour` is the place of its colour, the same in all plots.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What the horizontal axis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// The part of the requests that were at least as fast, from 0 to below 1, which is stretched
    /// towards 1.
    Quantile,
    /// Requests a second.
    Rate,
}

/// The colour of a line, as CSS says it.
pub(crate) fn css_colour(place: usize) -> String {
    let RGBColor(red, green, blue) = colour(place);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// Draws lines of latencies in microseconds; `None` if there is nothing to draw.
pub(crate) fn latencies(axis: Axis, lines: &[Line]) -> Option<String> {
    let place = |x: f64| match axis {
        Axis::Quantile => -(1.0 - x).log10(),
        Axis::Rate => x,
    };
    let drawn: Vec<(usize, Vec<(f64, f64)>)> = lines
        .iter()
        .map(|line| {
            let points = line.points.iter().map(|(x, y)| (place(*x), *y));
            let seen = points.filter(|(x, y)| x.is_finite() && *x >= 0.0 && *y > 0.0);
            (line.colour, seen.collect())
        })
        .collect();
    let all = || drawn.iter().flat_map(|(_, points)| points);
    let left = all().map(|(x, _)| *x).reduce(f64::min)?;
    let right = all().map(|(x, _)| *x).reduce(f64::max)?;
    let bottom = all().map(|(_, y)| *y).reduce(f64::min)? * 0.8;
    let top = all().map(|(_, y)| *y).reduce(f64::max)? * 1.25;
    let vertical = (bottom..top).log_scale();
    let mut svg = String::new();
    let drawing = match axis {
        Axis::Quantile => draw(&mut svg, 0.0..right.max(1.0), vertical, &drawn, |x| {
            format!("{} %", 100.0 * (1.0 - 10f64.powf(-x)))
        }),
        Axis::Rate => {
            let span = (left * 0.9).max(1.0)..right * 1.1;
            draw(&mut svg, span.log_scale(), vertical, &drawn, |x| {
                if *x >= 1_000.0 {
                    format!("{} k/s", short(*x / 1_000.0))
                } else {
                    format!("{x:.0}/s")
                }
            })
        }
    };
    // It goes to memory, so that nothing but a mistake in here can fail.
    drawing.ok()?;
    Some(svg)
}

fn draw<X, Y>(
    svg: &mut String,
    horizontal: X,
    vertical: Y,
    lines: &[(usize, Vec<(f64, f64)>)],
    name_x: impl Fn(&f64) -> String,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let area = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(30)
        .y_label_area_size(72)
        .build_cartesian_2d(horizontal, vertical)?;
    chart
        .configure_mesh()
        .x_labels(5)
        .y_labels(8)
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&name_x)
        .y_label_formatter(&|latency| name_latency(*latency))
        .label_style(("sans-serif", FONT_SIZE))
        .draw()?;
    for (place, points) in lines {
        let style = colour(*place).stroke_width(2);
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        let dot = |point: &(f64, f64)| Circle::new(*point, 3, colour(*place).filled());
        chart.draw_series(points.iter().map(dot))?;
    }
    area.present()?;
    Ok(())
}

fn name_latency(micros: f64) -> String {
    if micros >= 1_000_000.0 {
        format!("{} s", short(micros / 1_000_000.0))
    } else if micros >= 1_000.0 {
        format!("{} ms", short(micros / 1_000.0))
    } else {
        format!("{} \u{b5}s", short(micros))
    }
}

/// A round number without its zeros.
fn short(number: f64) -> String {
    let long = format!("{number:.1}");
    long.strip_suffix(".0").map(str::to_owned).unwrap_or(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)]) -> Line {
        Line {
            name: "one".to_owned(),
            colour: 0,
            points: points.to_vec(),
        }
    }

    #[test]
    fn lines_are_drawn_on_both_axes() {
        assert_eq!([short(10.0), short(0.25)], ["10", "0.2"]);
        let quantiles = line(&[
            (0.5, 40.0),
            (0.99, 900.0),
            (0.999, 40_000.0),
            (1.0, 50_000.0),
        ]);
        let svg = latencies(Axis::Quantile, &[quantiles]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("99 %") && svg.contains(" ms"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3, "1 has no place");
        let rates = line(&[(500.0, 40.0), (16_000.0, 900.0)]);
        let svg = latencies(Axis::Rate, &[rates]).unwrap();
        assert!(svg.contains("k/s") && svg.contains("<polyline"), "{svg}");
    }

    #[test]
    fn nothing_is_not_drawn() {
        assert_eq!(latencies(Axis::Rate, &[]), None);
        assert_eq!(latencies(Axis::Rate, &[line(&[])]), None);
    }
}
