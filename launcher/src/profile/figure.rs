//! Numbers of a page, as people read them and as a program finds them.

use serde_json::Value;

/// The number at `pointer` (RFC 6901) of a summary, as `show` writes it; none where the summary has no number there.
///
/// Its element carries the exact value and the pointer, so that a page can be checked against its summary.
pub(super) fn figure(
    summary: &Value,
    pointer: &str,
    show: impl FnOnce(f64) -> String,
) -> Option<String> {
    let value = summary.pointer(pointer)?;
    let shown = show(value.as_f64()?);
    Some(format!("<data value=\"{value}\" data-path=\"{pointer}\">{shown}</data>"))
}

/// The whole summary as an element of the page.
pub(super) fn embedded(summary: &Value) -> String {
    // No text in it can end the element early.
    let json = summary.to_string().replace('<', "\\u003c");
    format!("<script type=\"application/json\" id=\"summary\">{json}</script>\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_carries_its_value_and_its_place() {
        let summary = json!({"decode_bytes": {"miss": 2048, "hit": null}});
        let shown =
            figure(&summary, "/decode_bytes/miss", |bytes| format!("{} KiB", bytes / 1024.0));
        let expected = "<data value=\"2048\" data-path=\"/decode_bytes/miss\">2 KiB</data>";
        assert_eq!(shown.as_deref(), Some(expected));
        for absent in ["/decode_bytes/hit", "/decode_bytes", "/nothing"] {
            assert_eq!(figure(&summary, absent, |number| number.to_string()), None, "{absent}");
        }
    }

    #[test]
    fn a_models_name_does_not_end_the_summary() {
        let summary = json!({"model": "</script><b>"});
        let element = embedded(&summary);
        assert_eq!(element.matches("</script>").count(), 1, "{element}");
        let json = element.split_once('>').unwrap().1.strip_suffix("</script>\n").unwrap();
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), summary);
    }
}
