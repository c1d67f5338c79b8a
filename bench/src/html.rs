//! The report as one page that opens without a network: text, tables and plots.

use std::fmt::Write as _;

use crate::about::About;
use crate::goals::{Mark, Verdict, said};
use crate::measure::{Figure, Measure};
use crate::plot::{self, Axis, Line};
use crate::report::Failed;
use crate::summary::{Spread, Summary};

const STYLE: &str = include_str!("html.css");

/// The page.
pub(crate) fn page(
    about: &About,
    summaries: &[Summary],
    verdicts: &[Verdict],
    failed: &[Failed],
) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Ringlite beside the limit and its peers</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<h1>Ringlite beside the limit and its peers</h1>\n"
    );
    put_about(&mut page, about, failed);
    put_verdicts(&mut page, verdicts);
    put_plots(&mut page, &Systems::of(summaries), summaries);
    put_idle(&mut page, summaries);
    put_measures(&mut page, summaries);
    page.push_str("</body>\n</html>\n");
    page
}

/// The systems in the order in which they came first, which gives each its colour.
struct Systems {
    names: Vec<String>,
}

impl Systems {
    fn of(summaries: &[Summary]) -> Self {
        let mut names = Vec::new();
        for summary in summaries {
            let name = system_name(summary);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self { names }
    }

    fn place(&self, name: &str) -> usize {
        let place = self.names.iter().position(|known| known == name);
        place.unwrap_or(self.names.len())
    }
}

/// A system with what tells its forms apart, such as `ringlite, 3 nodes, tcp`.
fn system_name(summary: &Summary) -> String {
    let subject = &summary.subject;
    let nodes = match subject.nodes {
        0 => String::new(),
        1 => ", 1 node".to_owned(),
        nodes => format!(", {nodes} nodes"),
    };
    format!("{}{nodes}, {}", subject.system, subject.transport)
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = page.write_fmt(text);
}

fn put_about(page: &mut String, about: &About, failed: &[Failed]) {
    let mut facts = vec![
        ("command".to_owned(), about.command.clone()),
        ("date".to_owned(), about.date.clone()),
        (
            "commit".to_owned(),
            about.commit.clone().unwrap_or_default(),
        ),
        (
            "measures".to_owned(),
            format!(
                "{:.2} s each after a warm-up, {} repetitions, the systems in turn",
                about.seconds, about.repetitions
            ),
        ),
    ];
    facts.extend(about.machine.clone());
    for system in &about.systems {
        let settings = format!("{}: {}", system.version, system.settings);
        facts.push((system.system.clone(), settings));
    }
    for missing in &about.missing {
        facts.push((
            missing.system.clone(),
            format!("not measured: {}", missing.why),
        ));
    }
    for Failed { failed, words } in failed {
        facts.push((failed.clone(), format!("not measured: {words}")));
    }
    if let Some(warning) = &about.warning {
        facts.push(("warning".to_owned(), warning.clone()));
    }
    page.push_str("<dl>\n");
    for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        put(
            page,
            format_args!("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(fact)),
        );
    }
    page.push_str("</dl>\n");
}

fn put_verdicts(page: &mut String, verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    page.push_str("<h2>Aims</h2>\n<ul class=\"verdicts\">\n");
    for verdict in verdicts {
        let class = match verdict.mark() {
            Mark::Aim => "aim",
            Mark::Least => "least",
            Mark::Missed => "missed",
        };
        let words = escaped(&verdict.to_string());
        put(page, format_args!("<li class=\"{class}\">{words}</li>\n"));
    }
    page.push_str("</ul>\n");
}

fn put_plots(page: &mut String, systems: &Systems, summaries: &[Summary]) {
    let line = |summary: &Summary, points| {
        let name = system_name(summary);
        Line {
            colour: systems.place(&name),
            name,
            points,
        }
    };
    let mut loads: Vec<(String, usize, String)> = Vec::new();
    for summary in summaries.iter().filter(|summary| has_latencies(summary)) {
        let load = load_of(summary);
        if !summary.subject.open_loop && !loads.contains(&load) {
            loads.push(load);
        }
    }
    page.push_str("<h2>Latency by percentile</h2>\n");
    for load in &loads {
        let lines: Vec<Line> = summaries
            .iter()
            .filter(|summary| !summary.subject.open_loop && load_of(summary) == *load)
            .map(|summary| line(summary, summary.quantiles()))
            .collect();
        let (workload, connections, pace) = load;
        // A limit alone is no comparison.
        if lines.len() > 1 {
            let title = format!("{workload}, {connections} at a time{pace}");
            put_plot(page, &title, Axis::Quantile, &lines);
        }
    }
    page.push_str("<h2>Rate against latency</h2>\n");
    let medians = |summaries: &[&Summary], latency: Figure| -> Vec<(f64, f64)> {
        let point = |summary: &&Summary| {
            (
                summary.median(|measure| measure.rate),
                summary.median(latency),
            )
        };
        summaries.iter().map(point).collect()
    };
    for (words, open_loop) in [
        ("open loop, by the rate that was reached", true),
        ("back to back, by the number of connections", false),
    ] {
        for (quantile, latency) in [
            ("p50", (|measure| measure.p50_us) as Figure),
            ("p99", |measure| measure.p99_us),
        ] {
            let lines: Vec<Line> = systems
                .names
                .iter()
                .filter_map(|system| {
                    let of_system: Vec<&Summary> = summaries
                        .iter()
                        .filter(|summary| {
                            let subject = &summary.subject;
                            system_name(summary) == *system
                                && subject.workload == "insert-100"
                                && subject.open_loop == open_loop
                                && (open_loop || subject.pace_us == 0.0)
                        })
                        .collect();
                    let points = medians(&of_system, latency);
                    (points.len() > 1).then(|| line(of_system[0], points))
                })
                .collect();
            let title = format!("insert-100, {quantile}, {words}");
            put_plot(page, &title, Axis::Rate, &lines);
        }
    }
}

fn has_latencies(summary: &Summary) -> bool {
    summary.measures.iter().any(|measure| measure.max_us > 0.0)
}

/// What makes measures of different systems comparable: the workload, how many at a time, the pace.
fn load_of(summary: &Summary) -> (String, usize, String) {
    let subject = &summary.subject;
    let pace = match subject.pace_us {
        0.0 => String::new(),
        pace_us => format!(", one each {} ms", said(pace_us / 1_000.0)),
    };
    // The limits have no workload of their own: they are what a one-row insert is compared with.
    let is_limit = matches!(subject.system.as_str(), "disk" | "replication");
    let workload = if is_limit && subject.connections == 1 {
        "insert-100".to_owned()
    } else {
        subject.workload.clone()
    };
    (workload, subject.connections, pace)
}

fn put_plot(page: &mut String, title: &str, axis: Axis, lines: &[Line]) {
    let Some(svg) = plot::latencies(axis, lines) else {
        return;
    };
    let title = escaped(title);
    put(
        page,
        format_args!("<figure>\n<figcaption>{title}</figcaption>\n"),
    );
    put(
        page,
        format_args!("<div class=\"plot\">{svg}</div>\n<ul class=\"legend\">\n"),
    );
    for line in lines {
        let (colour, name) = (plot::css_colour(line.colour), escaped(&line.name));
        put(
            page,
            format_args!("<li><span style=\"background:{colour}\"></span>{name}</li>\n"),
        );
    }
    page.push_str("</ul>\n</figure>\n");
}

fn put_idle(page: &mut String, summaries: &[Summary]) {
    let mut rows = String::new();
    for summary in summaries {
        let cpu = summary.of_nodes(|measure| &measure.cpu_percent);
        let memory = summary.of_nodes(|measure| &measure.resident_mib);
        if let (Some(cpu), Some(memory)) = (cpu, memory) {
            let name = escaped(&system_name(summary));
            let (cpu, memory) = (spread(&cpu), spread(&memory));
            put(
                &mut rows,
                format_args!("<tr><th>{name}</th><td>{cpu}</td><td>{memory}</td></tr>\n"),
            );
        }
    }
    if !rows.is_empty() {
        put(
            page,
            format_args!(
                "<h2>Idle nodes</h2>\n<div class=\"table\"><table>\n<tr><th>the busiest and the \
                 largest node</th><th>% of a core</th><th>resident MiB</th></tr>\n{rows}</table>\
                 </div>\n"
            ),
        );
    }
}

fn put_measures(page: &mut String, summaries: &[Summary]) {
    page.push_str(
        "<h2>All measures</h2>\n<p>Medians over the repetitions, the least and the most of them in \
         brackets; latencies in &micro;s; disk bytes of the node that wrote most.</p>\n\
         <div class=\"table\"><table>\n<tr><th>measure</th><th>rate/s</th><th>p50</th><th>p90</th>\
         <th>p99</th><th>p99.9</th><th>max</th><th>p50 / raw write</th><th>disk bytes each</th>\
         <th>errors</th></tr>\n",
    );
    for summary in summaries
        .iter()
        .filter(|summary| summary.subject.connections > 0)
    {
        let of = |figure: Figure| {
            let figure = summary.spread(figure);
            figure.map_or_else(String::new, |figure| spread(&figure))
        };
        let disk = summary.of_nodes(|measure| &measure.disk_bytes_per_commit);
        let disk = disk.map_or_else(String::new, |disk| spread(&disk));
        put(
            page,
            format_args!(
                "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td>{}</td><td>{}</td><td>{disk}</td><td>{}</td></tr>\n",
                escaped(&summary.subject.name()),
                of(|measure| measure.rate),
                of(|measure| measure.p50_us),
                of(|measure| measure.p90_us),
                of(|measure| measure.p99_us),
                of(|measure| measure.p999_us),
                of(|measure| measure.max_us),
                of(Measure::raw_writes),
                errors(summary),
            ),
        );
    }
    page.push_str("</table></div>\n");
}

/// The failures of all repetitions by kind.
fn errors(summary: &Summary) -> String {
    let mut kinds: Vec<(String, u64)> = Vec::new();
    for (kind, count) in summary
        .measures
        .iter()
        .flat_map(|measure| &measure.failures)
    {
        match kinds.iter_mut().find(|(known, _)| known == kind) {
            Some((_, known)) => *known += count,
            None => kinds.push((kind.clone(), *count)),
        }
    }
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {}", escaped(kind)))
        .collect();
    kinds.join(", ")
}

fn spread(figure: &Spread) -> String {
    let Spread { median, min, max } = figure;
    if min == max {
        return said(*median);
    }
    let (min, max) = (said(*min), said(*max));
    format!("{} <small>({min}&ndash;{max})</small>", said(*median))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::tests::subject;
    use crate::measure::{Limits, Subject};
    use crate::outcome::{Failure, Outcome};
    use crate::pace::Pace;

    /// Measures of two systems at two numbers of connections and two rates, twice each.
    fn measures() -> Vec<Measure> {
        let mut measures = Vec::new();
        let limits = Limits {
            raw_write_p50_us: vec![(0.0, 40.0)],
            round_trip_p50_us: 20.0,
        };
        for repetition in 1..=2 {
            for system in ["ringlite", "etcd"] {
                for (connections, pace) in [
                    (1, Pace::BackToBack),
                    (64, Pace::BackToBack),
                    (64, Pace::open_at(500)),
                    (64, Pace::open_at(1000)),
                ] {
                    let mut outcome = Outcome::new();
                    for latency in 1..1000 {
                        let latency = latency * 1000 * connections;
                        outcome.latencies.saturating_record(latency);
                        outcome.answered_in_window += 1;
                    }
                    let failure = Failure {
                        kind: "<b>busy</b>".to_owned(),
                        words: String::new(),
                    };
                    outcome.fail(failure, 2);
                    let subject = Subject {
                        system: system.to_owned(),
                        connections: connections as usize,
                        ..subject()
                    };
                    let length = Duration::from_secs(connections);
                    measures.push(Measure::new(
                        subject.at(pace),
                        repetition,
                        length,
                        &outcome,
                        &limits,
                    ));
                }
            }
        }
        measures
    }

    #[test]
    fn a_report_has_plots_and_tables_and_needs_no_network() {
        let summaries = Summary::of_all(&measures());
        let about = About {
            command: "ringlite-bench --full".to_owned(),
            ..About::default()
        };
        let failed = [Failed {
            failed: "rqlite".to_owned(),
            words: "it died".to_owned(),
        }];
        let page = page(&about, &summaries, &[], &failed);
        // Two loads by percentile; two quantiles by rate, in the open loop and back to back.
        assert_eq!(page.matches("<svg").count(), 2 + 4);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.contains("ringlite/3/tcp/insert-100/64@1000/s"));
        assert!(page.contains("4 &lt;b&gt;busy&lt;/b&gt;") && !page.contains("<b>busy"));
        assert!(page.contains("ringlite-bench --full") && page.contains("it died"));
        let links =
            page.matches("http").count() - page.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(links, 0, "nothing is fetched");
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("viewport"));
    }

    #[test]
    fn a_report_of_nothing_renders() {
        let page = page(&About::default(), &[], &[], &[]);
        assert!(page.ends_with("</html>\n"));
    }
}
