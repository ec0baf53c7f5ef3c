//! Draws the picture, with a panel per quantity, a bar per back end, and whiskers from minimum to maximum.

use crate::numbers::Spread;
use crate::results::About;
use std::fmt::Write as _;

/// One quantity, measured on several back ends.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Presentation of the quantity.
    pub about: About,
    /// Bars of the panel, from top to bottom.
    pub bars: Vec<Bar>,
}

/// Result of one back end.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Name of the back end in the picture.
    pub name: &'static str,
    /// True for hawser's own result.
    pub ours: bool,
    /// Statistics of the samples. `None` if nothing was measured.
    pub spread: Option<Spread>,
}

const COLUMNS: usize = 2;
const PANEL_WIDTH: f64 = 460.0;
const GAP: f64 = 40.0;
const MARGIN: f64 = 24.0;
const TITLE: f64 = 64.0;
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;
/// Height of a panel's title and of the space below the panel.
const HEAD: f64 = 30.0;
const FOOT: f64 = 22.0;
/// Width of a letter in the names on the left, and of the space around them.
const LETTER: f64 = 6.6;
const NAME_SPACE: f64 = 12.0;
/// Width of the room for figures on the right of bars.
const FIGURES: f64 = 64.0;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}\
.paper{fill:#fff}.title{font-size:18px;font-weight:600}.note{font-size:12px;fill:#59636e}\
.head{font-size:13px;font-weight:600}.name,.figure{font-size:12px}.figure,.ours{font-variant-numeric:tabular-nums}\
.ours{font-weight:600}.bar{fill:#b1bac4}.bar.ours{fill:#0969da}.axis{stroke:#d1d9e0}.whisker{stroke:#1f2328;stroke-width:1.2}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.note{fill:#9198a1}.bar{fill:#4d5661}\
.bar.ours{fill:#4493f8}.axis{stroke:#3d444d}.whisker{stroke:#e6edf3}}";

/// Draws the picture. `note` states time and place of the measurement. Panels without hawser are left out.
pub fn svg(panels: &[Panel], note: &str) -> String {
    let has_ours = |panel: &&Panel| panel.bars.iter().any(|bar| bar.ours && bar.spread.is_some());
    let panels: Vec<_> = panels.iter().filter(has_ours).collect();
    let bars = || panels.iter().flat_map(|panel| &panel.bars);
    let longest = bars().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
    let names = count(longest) * LETTER + NAME_SPACE;
    let rows = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    let panel_height = HEAD + ROW * count(rows) + FOOT;
    let columns = count(COLUMNS);
    let width = 2.0 * MARGIN + columns * PANEL_WIDTH + (columns - 1.0) * GAP;
    let height = TITLE + count(panels.len().div_ceil(COLUMNS)) * panel_height + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"hawser beside other back ends\">\n\
         <style>{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n"
    );
    label(&mut out, "title", MARGIN, 30.0, "The same guest on each back end");
    label(&mut out, "note", MARGIN, 48.0, note);
    for (n, panel) in panels.iter().enumerate() {
        let x = MARGIN + count(n % COLUMNS) * (PANEL_WIDTH + GAP);
        let y = TITLE + count(n / COLUMNS) * panel_height;
        draw(&mut out, (x, y), names, panel);
    }
    out.push_str("</svg>\n");
    out
}

fn count(n: usize) -> f64 {
    f64::from(u16::try_from(n).unwrap_or(u16::MAX))
}

fn draw(out: &mut String, (x, y): (f64, f64), names: f64, panel: &Panel) {
    let (about, bars) = (panel.about, &panel.bars);
    let better = if about.more_is_better {
        "more is better"
    } else {
        "less is better"
    };
    label(out, "head", x, y + 18.0, about.title);
    let hint = format!("{}, {better}", about.unit);
    text(out, "note", (x + PANEL_WIDTH, y + 18.0), "end", &hint);
    let spreads = bars.iter().filter_map(|bar| bar.spread);
    let most = spreads.map(|s| s.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (PANEL_WIDTH - names - FIGURES) / most;
    for (n, Bar { name, ours, spread }) in bars.iter().enumerate() {
        let middle = y + HEAD + ROW * (count(n) + 0.5);
        let ours = if *ours { " ours" } else { "" };
        text(
            out,
            &format!("name{ours}"),
            (x + names - 8.0, middle + 4.0),
            "end",
            name,
        );
        match spread {
            Some(spread) => bar(out, (x + names, middle), scale, *spread, ours, about.digits),
            None => label(out, "note", x + names + 6.0, middle + 4.0, "not measured"),
        }
    }
    let (top, bottom) = (y + HEAD, y + HEAD + ROW * count(bars.len()));
    let axis = x + names;
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        out,
        "<line class=\"axis\" x1=\"{axis}\" y1=\"{top}\" x2=\"{axis}\" y2=\"{bottom}\"/>"
    );
}

fn bar(out: &mut String, (x, middle): (f64, f64), scale: f64, spread: Spread, ours: &str, digits: usize) {
    let at = |value: f64| x + value.max(0.0) * scale;
    let (width, top) = (at(spread.median) - x, middle - BAR / 2.0);
    let _ = writeln!(
        out,
        "<rect class=\"bar{ours}\" x=\"{x}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>"
    );
    let (from, to) = (at(spread.min), at(spread.max));
    if to - from > 1.0 {
        let (up, down) = (middle - 4.0, middle + 4.0);
        let _ = writeln!(
            out,
            "<path class=\"whisker\" fill=\"none\" d=\"M{from:.1} {up}V{down}M{from:.1} {middle}H{to:.1}M{to:.1} {up}V{down}\"/>"
        );
    }
    let figure = format!("{:.digits$}", spread.median);
    label(
        out,
        &format!("figure{ours}"),
        to.max(x + width) + 6.0,
        middle + 4.0,
        &figure,
    );
}

fn label(out: &mut String, class: &str, x: f64, y: f64, what: &str) {
    text(out, class, (x, y), "start", what);
}

fn text(out: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Back, Quantity, SHOWN, Samples};

    #[test]
    fn each_peer_has_a_bar_in_each_panel_that_was_measured() {
        let mut results = Samples::default();
        for peer in [Back::Hawser, Back::Tap] {
            for value in [1.0, 2.0, 4.0] {
                results.add(peer, Quantity::TcpOut, value);
            }
        }
        let picture = svg(&SHOWN.map(|metric| results.panel(metric)), "today <here>");
        assert_eq!(picture.matches("<rect class=\"bar").count(), 2);
        assert_eq!(picture.matches("<path class=\"whisker").count(), 2);
        assert_eq!(picture.matches("class=\"head\"").count(), 1);
        assert!(picture.contains("today &lt;here>"));
    }
}
