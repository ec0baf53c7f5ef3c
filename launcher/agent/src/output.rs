//! Output for people: tables and YAML.

use serde_json::Value;
use std::fmt::Write as _;

/// Longest text that YAML shows without quotes.
const PLAIN: usize = 80;

/// Rows with columns of equal width.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

/// The first line of a message.
pub(crate) fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// A duration in the two units that matter, as kubectl prints it.
pub(crate) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{minutes}m"),
        7200..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

/// A value as YAML, which every reader of YAML and of JSON understands in the same way.
pub(crate) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_block(&mut text, value, 0);
    text
}

/// Writes a value that begins on a new line.
fn write_block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(pairs) if !pairs.is_empty() => {
            for (key, value) in pairs {
                let _ = write!(text, "{:indent$}{}:", "", scalar(&Value::from(key.as_str())));
                write_after_key(text, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                write_block(&mut inner, item, indent + 2);
                // The first line of the item follows the dash.
                let _ = write!(text, "{:indent$}- {}", "", inner.trim_start_matches(' '));
            }
        }
        other => {
            let _ = writeln!(text, "{:indent$}{}", "", scalar(other));
        }
    }
}

fn write_after_key(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(pairs) if !pairs.is_empty() => {
            text.push('\n');
            write_block(text, value, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_block(text, value, indent);
        }
        other => {
            let _ = writeln!(text, " {}", scalar(other));
        }
    }
}

/// A value on one line. Text that a reader could take for something else is quoted as in JSON, which is valid YAML.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let is_reserved = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"]
        .iter()
        .any(|word| word.eq_ignore_ascii_case(text));
    starts && text.len() <= PLAIN && text.bytes().all(is_word) && !is_reserved
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_manifest::objects::SourceFile;
    use hawser_manifest::objects::written;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["NAME".into(), "X".into()],
            vec!["größer".into(), "1".into()],
            vec!["a".into()],
        ];
        assert_eq!(table(&rows), "NAME    X\ngrößer  1\na\n");
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [5, 119, 120, 7199, 7200, 172_800].map(age);
        assert_eq!(ages, ["5s", "119s", "2m", "119m", "2h", "2d"]);
    }

    #[test]
    fn what_is_written_as_yaml_is_read_as_the_same_value() {
        let value = json!({
            "kind": "Service", "apiVersion": "v1",
            "metadata": {"name": "db", "namespace": "blue", "annotations": {"a/b": "yes", "t": "a: b # c\nd", "e": ""}},
            "spec": {"ports": [{"port": 80, "names": ["x", []]}, {}, [1, [2, "3"]]], "on": true, "none": null, "n": 1.5},
            "true": "0120", "list": [{"a": {"b": [{"c": "-"}]}}],
        });
        let file = SourceFile {
            name: "x".into(),
            text: yaml(&value),
        };
        let read = written::list(std::slice::from_ref(&file), "default").unwrap();
        assert_eq!(read[0].value, value, "{}", file.text);
    }
}
