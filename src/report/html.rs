//! page
use super::Report;
pub fn render(_report: &Report) -> anyhow::Result<String> {
    Ok(String::new())
}
