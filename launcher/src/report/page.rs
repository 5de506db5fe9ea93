//! Pages of HTML that need nothing else.

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, p { overflow-wrap: anywhere }
table { display: block; max-width: 100%; overflow-x: auto; border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .7rem; text-align: right } th { border-bottom: 2px solid #888 } td { border-bottom: 1px solid #ddd } .text { text-align: left }
svg { max-width: 100%; height: auto } .key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
pre { white-space: pre-wrap; max-height: 24rem; overflow-y: auto; padding: .5rem; background: #f4f4f4 }";

/// A page: `title`, which is also its heading, and the HTML below it.
pub(crate) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// Text that cannot be taken for markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Whether a page is closed properly and refers to nothing outside of it.
#[cfg(test)]
pub(crate) fn assert_whole(page: &str, elements: &[&str]) {
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for element in elements {
        let open = page.matches(&format!("<{element}>")).count()
            + page.matches(&format!("<{element} ")).count();
        let close = page.matches(&format!("</{element}>")).count();
        assert!(open > 0 && open == close, "{element}: {open} and {close}");
    }
    let named = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!named.contains("http") && !named.contains("src=") && !named.contains("href="));
}
