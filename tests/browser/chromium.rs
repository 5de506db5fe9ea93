//! A page as Chromium draws it.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// A page, in a frame of some width.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    /// Width of the frame, and of what is in it; more if something sticks out.
    pub(crate) width: f64,
    pub(crate) content_width: f64,
    /// Addresses of what the page fetched.
    pub(crate) fetched: Vec<String>,
    /// The summary that it carries, as JSON.
    pub(crate) summary: String,
    pub(crate) plots: Vec<Plot>,
    pub(crate) numbers: Vec<Number>,
}

/// Where something is drawn, in pixels of the frame.
#[derive(Debug, Deserialize)]
pub(crate) struct Rectangle {
    pub(crate) x: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// A plot: what of it is drawn inside its picture, in colour.
#[derive(Debug, Deserialize)]
pub(crate) struct Plot {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) heading: String,
    /// None where the section has no picture.
    #[serde(rename = "box")]
    pub(crate) area: Option<Rectangle>,
    /// Points of each line, in the picture's own units.
    #[serde(default)]
    pub(crate) lines: Vec<Vec<[f64; 2]>>,
    #[serde(default)]
    pub(crate) bars: usize,
    #[serde(default)]
    pub(crate) texts: Vec<String>,
}

/// A number that says where in the summary it stands.
#[derive(Debug, Deserialize)]
pub(crate) struct Number {
    pub(crate) path: String,
    pub(crate) value: f64,
    pub(crate) text: String,
    #[serde(rename = "box")]
    pub(crate) area: Rectangle,
}

/// Opens a page in frames of these widths; the second part is what the browser's console said.
pub(crate) fn open(page: &str, widths: &[u32]) -> (Vec<Seen>, Vec<String>) {
    let folder = TempDir::new().unwrap();
    let look = folder.path().join("look.html");
    // No text of the page can end the script that it is part of.
    let page = Value::from(page).to_string().replace('<', "\\u003c");
    let html = include_str!("look.html")
        .replace("const PAGE = null;", &format!("const PAGE = {page};"))
        .replace("const WIDTHS = [];", &format!("const WIDTHS = {widths:?};"));
    std::fs::write(&look, html).unwrap();
    let output = chromium(folder.path())
        .args(["--dump-dom", "--enable-logging=stderr"])
        .arg(format!("file://{}", look.display()))
        .output()
        .unwrap_or_else(|error| panic!("chromium ({error}): apt-get install chromium"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let console = said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned);
    let dom = String::from_utf8(output.stdout).unwrap();
    let seen = dom.split_once("<pre id=\"seen\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (seen, _) = seen.unwrap_or_else(|| panic!("{dom}\n{said}"));
    let seen = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let seen =
        serde_json::from_str(&seen).unwrap_or_else(|error| panic!("{error}: {seen}\n{said}"));
    (seen, console.collect())
}

/// Chromium without a window, a network or anything that other runs have left.
fn chromium(folder: &Path) -> Command {
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]);
    command.arg(format!("--user-data-dir={}", folder.join("user-data").display()));
    command
}
