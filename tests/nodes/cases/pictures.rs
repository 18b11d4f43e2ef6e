//! The pictures of the documents, drawn by a browser in light and in dark: each text can be read. This needs no node, only
//! Debian's chromium, which `tests/run` installs where apt has it.

use std::process::Command;

use crate::support::root::Root;

const MEASURE: &str = include_str!("../browser/measure.js");

/// What a viewer of these pictures, each with its name, could not read; and how many there are, in which colours.
fn looked_at(pictures: &[(String, String)], is_dark: bool) -> String {
    let directory = Root::empty();
    let frame = |(name, svg): &(String, String)| {
        let page =
            format!("<!DOCTYPE html><body style='margin: 0'>{svg}</body>").replace('&', "&amp;").replace('"', "&quot;");
        format!("<iframe title=\"{name}\" width=2000 height=2000 srcdoc=\"{page}\"></iframe>\n")
    };
    let frames: String = pictures.iter().map(frame).collect();
    directory.write(
        "/page.html",
        format!("<!DOCTYPE html><meta charset=utf-8><body>{frames}<script>{MEASURE}</script></body>"),
    );
    let mut browser = Command::new("chromium");
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", directory.at("/profile").display()))
        .arg(format!("--blink-settings=preferredColorScheme={}", if is_dark { 0 } else { 1 }))
        .arg(format!("file://{}", directory.at("/page.html").display()));
    let output = browser.output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    let (_, found) = page
        .split_once("<pre id=\"faults\">")
        .unwrap_or_else(|| panic!("the browser drew nothing: {}", String::from_utf8_lossy(&output.stderr)));
    found.split_once("</pre>").unwrap().0.trim().replace("&amp;", "&")
}

/// Whether there is a browser; `tests/run` shows the line at its end.
fn has_browser() -> bool {
    let is_there = Command::new("chromium").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("NOT CHECKED: pictures: chromium is not installed");
    }
    is_there
}

#[test]
fn every_picture_of_the_documents_can_be_read_in_light_and_in_dark() {
    if !has_browser() {
        return;
    }
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/img");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "svg"));
    let pictures: Vec<(String, String)> = files
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    for (is_dark, name) in [(false, "light"), (true, "dark")] {
        assert_eq!(looked_at(&pictures, is_dark), format!("{name}, {} pictures", pictures.len()));
    }
}

#[test]
fn a_picture_that_cannot_be_read_is_noticed() {
    if !has_browser() {
        return;
    }
    let svg = |body: &str| {
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"200\" height=\"100\"><title>x</title>{body}</svg>")
    };
    for (body, fault) in [
        ("<text x='150' y='50'>goes over the edge of it</text>", "is cut off at the edge"),
        (
            "<rect x='10' y='10' width='60' height='40' fill='#eee'/><text x='14' y='30'>wider than it</text>",
            "does not fit its box",
        ),
        (
            "<rect x='90' y='10' width='60' height='40' fill='#eee'/><text x='14' y='30'>from outside of it</text>",
            "runs into another box",
        ),
        ("<text x='10' y='50'>one</text><text x='14' y='52'>two</text>", "is over"),
        ("<text x='10' y='50' fill='#eee'>pale</text>", "has a contrast of"),
        ("", "has no text"),
    ] {
        let found = looked_at(&[("x.svg".into(), svg(body))], false);
        assert!(found.contains(fault), "{body}: {found}");
    }
}
