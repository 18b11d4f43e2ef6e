//! docs/img/terminal.svg: what the program prints on a terminal, as a picture that `docs/img/make` writes.

use super::blocks::{Shell, same_each_time};
use super::{document, is_update, project};

const PICTURE: &str = "docs/img/terminal.svg";
/// Pixels: the width of a character, and from one line to the next.
const CHARACTER: f64 = 7.8;
const LINE: usize = 19;
const MARGIN: usize = 20;
/// The lines of a long output that are shown before and after the others.
const FIRST: usize = 6;
const LAST: usize = 1;
/// The width of the window.
const COLUMNS: usize = 100;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A line as far as the window shows it. The length of time at its end has more digits on a slow machine, and must not
/// decide whether the line is cut.
fn cut(line: &str) -> String {
    let usual = regex::Regex::new(r"\b\d+(\.\d+)? ?(ms|s)$").unwrap().replace(line, "0 ms");
    match usual.char_indices().nth(COLUMNS - 1) {
        Some((at, _)) if usual.chars().count() > COLUMNS => format!("{}…", &usual[..at]),
        _ => line.to_owned(),
    }
}

/// A command, and what it prints: long outputs without their middle.
fn record(shell: &Shell, command: &str) -> Vec<String> {
    let (code, output) = shell.run(command);
    assert_eq!(code, 0, "{command}: {output}");
    let lines: Vec<String> = output.lines().map(cut).collect();
    let mut shown = vec![format!("$ {command}")];
    if lines.len() > FIRST + LAST + 1 {
        shown.extend_from_slice(&lines[..FIRST]);
        shown.push(format!("  ⋮  {} more lines", lines.len() - FIRST - LAST));
        shown.extend_from_slice(&lines[lines.len() - LAST..]);
    } else {
        shown.extend(lines);
    }
    shown.push(String::new());
    shown
}

/// The picture of lines; each appears a little after the one before, where the viewer wants motion.
fn picture(lines: &[String]) -> String {
    let longest = lines.iter().map(|line| line.chars().count()).max().unwrap();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "pixels")]
    let width = (longest as f64 * CHARACTER).ceil() as usize + 2 * MARGIN;
    let height = (lines.len() + 2) * LINE + MARGIN;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="title">
<title id="title">A terminal: plan, apply and status of role agent on built-in facts</title>
<style>
.window {{ fill: #f6f8fa; stroke: #d0d7de; }}
text {{ fill: #1f2328; font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; }}
.command {{ fill: #0550ae; font-weight: bold; }}
.quiet {{ fill: #59636e; }}
@media (prefers-color-scheme: dark) {{
  .window {{ fill: #0d1117; stroke: #3d444d; }}
  text {{ fill: #f0f6fc; }}
  .command {{ fill: #79c0ff; }}
  .quiet {{ fill: #9198a1; }}
}}
@media (prefers-reduced-motion: no-preference) {{
  text {{ animation: appear 0.1s both; }}
  @keyframes appear {{ from {{ opacity: 0; }} }}
}}
</style>
<rect class="window" x="0.5" y="0.5" width="{}" height="{}" rx="8"/>
<circle cx="20" cy="18" r="5" fill="#ff5f57"/><circle cx="38" cy="18" r="5" fill="#febc2e"/><circle cx="56" cy="18" r="5" fill="#28c840"/>
"##,
        width - 1,
        height - 1,
    );
    let mut milliseconds = 300;
    for (index, line) in lines.iter().enumerate() {
        milliseconds += if line.starts_with("$ ") { 900 } else { 60 };
        if line.is_empty() {
            continue;
        }
        let class = match line {
            line if line.starts_with("$ ") => r#" class="command""#,
            line if line.contains(" deferred  ") || line.starts_with("  ⋮") => r#" class="quiet""#,
            _ => "",
        };
        #[expect(clippy::cast_precision_loss, reason = "a line of a terminal")]
        let length = line.chars().count() as f64 * CHARACTER;
        svg.push_str(&format!(
            "<text{class} x=\"{MARGIN}\" y=\"{}\" textLength=\"{length:.0}\" xml:space=\"preserve\" style=\"animation-delay: {milliseconds}ms\">{}</text>\n",
            (index + 2) * LINE + MARGIN,
            escape(line),
        ));
    }
    svg + "</svg>\n"
}

#[test]
fn the_recording_shows_what_the_program_prints() {
    let shell = Shell::new();
    let commands = ["plan", "apply", "status"]
        .map(|command| format!("titus-bootstrap {command} --role agent --sample --root ./node"));
    let lines: Vec<String> = commands.iter().flat_map(|command| record(&shell, command)).collect();
    let new = picture(&lines);
    let same = |text: &str| -> Vec<String> {
        // A length of time may have another number of digits, and then its line another length.
        let length = regex::Regex::new(" textLength=\"[0-9]+\"").unwrap();
        text.lines()
            .filter(|line| line.starts_with("<text"))
            .map(|line| same_each_time(&length.replace(line, "")))
            .collect()
    };
    let path = project().join(PICTURE);
    let old = if path.exists() { document(PICTURE) } else { String::new() };
    if is_update() && same(&old) != same(&new) {
        std::fs::write(path, new).unwrap();
        return;
    }
    assert_eq!(same(&old), same(&new), "{PICTURE} shows something else; docs/img/make draws it again");
}
