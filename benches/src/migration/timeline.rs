//! Draws a migration: what the world received from the guest, how long the guest took to answer on one connection, and
//! the time between two datagrams of its beat. Times are seconds from the start of the migration.

use super::{AFTER, BEFORE, Outcome, count, millis};
use std::fmt::Write as _;
use std::time::Duration;

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 24.0;
/// Width of the figures left of the panels.
const SCALE: f64 = 64.0;
const TITLE: f64 = 92.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 44.0;
/// Distance between two lines of the time's scale, in seconds.
const TICK: f64 = 1.0;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328;font-size:12px}\
.paper{fill:#fff}.title{font-size:18px;font-weight:600}.note{fill:#59636e}.head{font-size:13px;font-weight:600}\
.axis{stroke:#d1d9e0}.line{fill:none;stroke:#0969da;stroke-width:1.5}.stop{fill:#cf222e;opacity:.25}\
.begin{stroke:#59636e;stroke-dasharray:4 3}.end{text-anchor:end}.middle{text-anchor:middle}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.note{fill:#9198a1}.axis{stroke:#3d444d}\
.line{stroke:#4493f8}.stop{fill:#f85149}.begin{stroke:#9198a1}}";

/// Form of a quantity in the picture.
enum Form {
    /// A value that goes on.
    Line,
    /// A stick for each value: each stands for itself.
    Sticks,
}

/// A quantity over time.
struct Panel {
    title: &'static str,
    unit: &'static str,
    form: Form,
    /// Seconds since the start of the migration, and the value.
    points: Vec<(f64, f64)>,
}

/// Draws a migration. `note` states time and place.
pub fn svg(outcome: &Outcome, note: &str) -> String {
    let (first, last) = (
        outcome.began.saturating_sub(BEFORE),
        outcome.resumed.saturating_add(AFTER),
    );
    let since = |at: Duration| at.as_secs_f64() - outcome.began.as_secs_f64();
    let span = (since(first), since(last));
    let x = |seconds: f64| MARGIN + SCALE + (seconds - span.0) / (span.1 - span.0) * (WIDTH - 2.0 * MARGIN - SCALE);
    let panels = panels(outcome, since);
    let height = TITLE + f64::from(u8::try_from(panels.len()).unwrap_or(u8::MAX)) * (PANEL + GAP) + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"A live migration\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"32\">A live migration to a node with another address</text>\n\
         <text x=\"{MARGIN}\" y=\"54\">{}</text>\n<text class=\"note\" x=\"{MARGIN}\" y=\"74\">{note}</text>\n",
        outcome.summary()
    );
    let mut top = TITLE + GAP / 2.0;
    for panel in &panels {
        draw(&mut out, panel, top, span, &x);
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            out,
            "<line class=\"begin\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{1}\"/>\n\
             <rect class=\"stop\" x=\"{2:.1}\" y=\"{top}\" width=\"{3:.1}\" height=\"{PANEL}\"/>",
            x(0.0),
            top + PANEL,
            x(since(outcome.stopped)),
            (x(since(outcome.resumed)) - x(since(outcome.stopped))).max(1.0),
        );
        top += PANEL + GAP;
    }
    let _ = writeln!(
        out,
        "<text class=\"note middle\" x=\"{:.1}\" y=\"{}\">seconds from the start of the migration; red: the guest is stopped\
         </text>\n</svg>",
        x(f64::midpoint(span.0, span.1)),
        top - GAP + 32.0
    );
    out
}

fn panels(outcome: &Outcome, since: impl Fn(Duration) -> f64) -> Vec<Panel> {
    let rates = outcome.rates.windows(2).filter_map(|pair| {
        let time = pair[1].at.checked_sub(pair[0].at)?.as_secs_f64();
        let bytes = count(pair[1].bytes.saturating_sub(pair[0].bytes));
        Some((since(pair[1].at), bytes / time / 1e6))
    });
    let trips = outcome.round_trips.iter();
    let gaps = outcome.datagrams.windows(2);
    let mut panels = vec![
        Panel {
            form: Form::Sticks,
            title: "answers on one connection of the world",
            unit: "ms",
            points: trips
                .map(|trip| (since(trip.at + trip.took), millis(trip.took)))
                .collect(),
        },
        Panel {
            form: Form::Sticks,
            title: "time between two datagrams of the guest",
            unit: "ms",
            points: gaps
                .map(|pair| (since(pair[1].at), millis(pair[1].at.saturating_sub(pair[0].at))))
                .collect(),
        },
    ];
    if outcome.load.busy > 0 {
        panels.insert(
            0,
            Panel {
                form: Form::Line,
                title: "received from the guest",
                unit: "MB/s",
                points: rates.collect(),
            },
        );
    }
    panels
}

fn draw(out: &mut String, panel: &Panel, top: f64, span: (f64, f64), x: &impl Fn(f64) -> f64) {
    let points = || {
        let within = |point: &&(f64, f64)| (span.0..span.1).contains(&point.0);
        panel.points.iter().filter(within)
    };
    let most = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    let y = |value: f64| top + PANEL * (1.0 - value / most);
    let _ = writeln!(
        out,
        "<text class=\"head\" x=\"{MARGIN}\" y=\"{}\">{}, {}</text>",
        top - 12.0,
        panel.title,
        panel.unit
    );
    for value in [0.0, most] {
        let _ = writeln!(
            out,
            "<text class=\"note end\" x=\"{0}\" y=\"{1:.1}\">{value:.0}</text>\n\
             <line class=\"axis\" x1=\"{2:.1}\" x2=\"{3:.1}\" y1=\"{4:.1}\" y2=\"{4:.1}\"/>",
            MARGIN + SCALE - 8.0,
            y(value) + 4.0,
            x(span.0),
            x(span.1),
            y(value)
        );
    }
    let mut tick = span.0.ceil();
    while tick < span.1 {
        let _ = writeln!(
            out,
            "<text class=\"note middle\" x=\"{:.1}\" y=\"{}\">{tick:.0}</text>",
            x(tick),
            top + PANEL + 16.0
        );
        tick += TICK;
    }
    let base = y(0.0);
    let path = points().fold(String::new(), |mut path, point| {
        let (x, y) = (x(point.0), y(point.1));
        let _ = match panel.form {
            Form::Line if path.is_empty() => write!(path, "M{x:.1},{y:.1}"),
            Form::Line => write!(path, "L{x:.1},{y:.1}"),
            Form::Sticks => write!(path, "M{x:.1},{base:.1}V{y:.1}"),
        };
        path
    });
    let _ = writeln!(out, "<path class=\"line\" d=\"{path}\"/>");
}
