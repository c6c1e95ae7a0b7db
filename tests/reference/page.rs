//! Compares the page of `report --html` with the document of `report --json`.

use serde_json::Value;

use super::compare::micros;

/// A row of a table: the texts of its cells.
type Cells = Vec<String>;

/// The differences between the page and the document.
pub fn differences(page: &str, document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let (rows, outages) = (table(page, "checks"), table(page, "first failure"));
    let none = Vec::new();
    let databases = document["databases"].as_array().unwrap_or(&none);

    for (index, database) in databases.iter().enumerate() {
        let name = name(database);
        // A target of both commands has a row for each.
        let nth = databases[..index].iter().filter(|other| self::name(other) == name).count();
        match rows.iter().filter(|row| covers(&row[0], &name)).nth(nth) {
            Some(row) => found.extend(row_differences(&name, row, database)),
            None => found.push(format!("page: no row of {name}")),
        }
        let of_row = database["outages"].as_array().unwrap_or(&none);
        for (index, outage) in of_row.iter().enumerate() {
            let is_it = |row: &&Cells| covers(&row[0], &name) && has_times_of(row, outage);
            // In the repeated hour when daylight saving ends, two outages may have the same local times.
            let nth = of_row[..index].iter().filter(|other| have_same_times(other, outage)).count();
            match outages.iter().filter(is_it).nth(nth) {
                Some(row) => found.extend(outage_differences(&name, row, outage)),
                None => found.push(format!("page: no outage of {name} at {}", outage["first_failure"])),
            }
        }
        found.extend(band_differences(page, document, databases, index));
    }
    found
}

fn name(database: &Value) -> String {
    let db = database["db"].as_u64().map(|db| format!("DB {db}"));
    let held = (database["held"] == true).then(|| "HELD".to_owned());
    let endpoint = (held.is_none() && db.is_none()).then(|| "endpoint".to_owned());
    let write = (database["write"] == true).then(|| "WRITE".to_owned());
    [held, endpoint, db, write].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Whether a row is that of a target: `DB 0-2, DB 4 WRITE` is that of `DB 1`.
fn covers(row: &str, name: &str) -> bool {
    row.split(", ").any(|part| {
        if part == name {
            return true;
        }
        let (Some(part), Some(name)) = (part.strip_prefix("DB "), name.strip_prefix("DB ")) else { return false };
        let (numbers, write) = part.split_once(' ').unwrap_or((part, ""));
        let (db, write_of_name) = name.split_once(' ').unwrap_or((name, ""));
        let bounds = numbers.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        let within = |(from, to): (u32, u32)| db.parse().is_ok_and(|db| (from..=to).contains(&db));
        write == write_of_name && bounds.is_some_and(within)
    })
}

/// A timestamp as the page shows it, with as many digits as `like`.
fn stamp(stamp: &Value, like: &str) -> String {
    let text = stamp.as_str().unwrap_or("").replacen('T', " ", 1);
    text.get(..if like.len() == 23 { 23 } else { 19 }).unwrap_or("").to_owned()
}

/// Whether a row of the page shows the times of this outage.
fn has_times_of(row: &Cells, outage: &Value) -> bool {
    row[1] == stamp(&outage["first_failure"], &row[1])
        && (row[2] == "…" && outage["first_success_after"].is_null()
            || row[2] == stamp(&outage["first_success_after"], &row[2]))
}

/// Whether the page shows two outages with the same times, in local time.
fn have_same_times(one: &Value, other: &Value) -> bool {
    let local = |outage: &Value, field: &str| outage[field].as_str().and_then(|at| at.get(..23)).map(str::to_owned);
    ["first_failure", "first_success_after"].iter().all(|field| local(one, field) == local(other, field))
}

fn row_differences(name: &str, row: &Cells, database: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let (checks, failures) = (database["checks"].as_u64().unwrap_or(0), database["failures"].as_u64().unwrap_or(0));
    let thousandths = (checks - failures) * 100_000 / checks.max(1);
    let share = match database["availability"].is_null() {
        true => "–".to_owned(),
        false => format!("{}.{:03} %", thousandths / 1000, thousandths % 1000),
    };
    for (found_text, wanted) in row[1..].iter().zip([checks.to_string(), failures.to_string(), share]) {
        if *found_text != wanted {
            found.push(format!("page: {name}: {found_text} instead of {wanted}"));
        }
    }
    for (cell, figure) in row[4.min(row.len())..].iter().zip(["p50", "p90", "p99", "max"]) {
        let wanted = database["latency_us"][figure].as_f64().map(|micros| micros / 1000.0);
        if !shows(cell, wanted, 0.051) {
            found.push(format!("page: {name}: {figure} {cell} instead of {wanted:?} ms"));
        }
    }
    found
}

/// Whether a cell shows a number, or a range that contains it.
fn shows(cell: &str, wanted: Option<f64>, exactness: f64) -> bool {
    let numbers: Vec<f64> = cell
        .split(|other: char| !other.is_ascii_digit() && other != '.')
        .filter_map(|number| number.parse().ok())
        .collect();
    match (wanted, numbers.first(), numbers.last()) {
        (None, None, _) => true,
        (Some(wanted), Some(low), Some(high)) => (low - exactness..=high + exactness).contains(&wanted),
        _ => false,
    }
}

fn outage_differences(name: &str, row: &Cells, outage: &Value) -> Vec<String> {
    let mut found = Vec::new();
    // Rounded to milliseconds. Databases that share an outage are told in one line.
    for (cell, field) in [(&row[3], "at_least_s"), (&row[4], "at_most_s")] {
        let wanted = outage[field].as_f64();
        let several = row[0].contains([',', '-']) && !row[0].starts_with("NODE");
        let number = cell.split(' ').next().and_then(|number| number.parse::<f64>().ok());
        let shown = match (wanted, number) {
            (None, _) => field == "at_most_s" && cell == "not known",
            // What is told of several databases must be true of each.
            (Some(wanted), Some(shown)) if several && field == "at_least_s" => shown <= wanted + 0.000_51,
            (Some(wanted), Some(shown)) if several => shown >= wanted - 0.000_51,
            _ => shows(cell, wanted, 0.000_51),
        };
        if !shown {
            found.push(format!("page: {name}: {field} {cell} instead of {}", outage[field]));
        }
    }
    // The page lists the kinds in another order than the document.
    let (count, kinds) = row[5].split_once(' ').unwrap_or((&row[5], ""));
    let sorted = |mut kinds: Vec<String>| {
        kinds.sort();
        kinds
    };
    let shown = sorted(kinds.trim_matches(['(', ')']).split(", ").map(str::to_owned).collect());
    let words = |(kind, count): (&String, &Value)| format!("{kind} {count}");
    let wanted = sorted(outage["kinds"].as_object().into_iter().flatten().map(words).collect());
    if outage["failed_checks"].as_u64() != count.parse().ok() || shown != wanted {
        found.push(format!("page: {name}: failed checks {} instead of {}", row[5], outage["kinds"]));
    }
    for (field, caveat) in [
        (outage["last_success_before"].is_null(), "its beginning was not observed"),
        (outage["first_success_after"].is_null(), "its end was not observed"),
        (outage["spans_gap"] == true, "part of it was not observed"),
    ] {
        if row[6].contains(caveat) != field {
            found.push(format!("page: {name}: at {}: {caveat}: {}", outage["first_failure"], row[6]));
        }
    }
    found
}

/// Whether the bar of a target is red for its outages and nowhere else. Neighbours that are closer than three units of
/// a thousand are drawn as one.
fn band_differences(page: &str, document: &Value, databases: &[Value], index: usize) -> Vec<String> {
    let (name, none) = (name(&databases[index]), Vec::new());
    let (Some(first), Some(last)) = (micros(&document["from"]), micros(&document["to"])) else { return Vec::new() };
    if first == last {
        // There is no timeline of one moment.
        return Vec::new();
    }
    let bands: Vec<_> = page.split("<div class=\"band\"><span>").skip(1).collect();
    let nth = databases[..index].iter().filter(|other| self::name(other) == name).count();
    let is_it = |band: &&&str| band.split("</span>").next().is_some_and(|title| covers(&text(title), &name));
    let Some(band) = bands.iter().filter(is_it).nth(nth) else { return vec![format!("page: no band of {name}")] };

    // Timestamps are cut to milliseconds, and a short run is drawn more exactly.
    let exactness = 0.2 + 2e6 / (last - first) as f64;
    let scale = |at: i64| (at - first) as f64 / (last - first).max(1) as f64 * 1000.0;
    let mut drawn = Vec::new();
    for segment in band.split("<rect class=\"down\"").skip(1) {
        let attribute =
            |name: &str| segment.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.parse::<f64>().ok();
        let (Some(x), Some(width)) = (attribute("x"), attribute("width")) else {
            return vec![format!("page: a segment of {name} cannot be read")];
        };
        drawn.push((x, x + width));
    }

    let mut found = Vec::new();
    let outages: Vec<_> = databases[index]["outages"]
        .as_array()
        .unwrap_or(&none)
        .iter()
        .map(|outage| {
            let (from, to) = (micros(&outage["first_failure"]), micros(&outage["first_success_after"]));
            let to = to.or_else(|| micros(&outage["last_failure"]));
            (scale(from.unwrap_or(first)), scale(to.unwrap_or(last)))
        })
        .collect();
    for (from, to) in &outages {
        if !drawn.iter().any(|(x, end)| *x <= from + exactness && end + exactness >= *to) {
            found.push(format!("page: {name} is not down from {from:.1} to {to:.1}: {drawn:?}"));
        }
    }
    for (x, end) in drawn {
        if !outages.iter().any(|(from, to)| x <= to + 3.0 + exactness && end + 3.0 + exactness >= *from) {
            found.push(format!("page: {name} is down from {x} to {end} without an outage"));
        }
    }
    found
}

/// The rows of the table whose second column has this title.
fn table(page: &str, second: &str) -> Vec<Cells> {
    let cells = |row: &str| -> Cells {
        row.split("<td").skip(1).filter_map(|cell| cell.split_once('>')).map(|(_, cell)| text(cell)).collect()
    };
    for table in page.split("<table>").skip(1) {
        let table = table.split("</table>").next().unwrap_or("");
        let Some((head, body)) = table.split_once("</thead>") else { continue };
        if head
            .split("<th")
            .nth(3)
            .and_then(|title| title.split_once('>'))
            .is_some_and(|(_, title)| text(title) == second)
        {
            return body.split("<tr>").skip(1).map(cells).collect();
        }
    }
    Vec::new()
}

/// The text of HTML, without its tags.
fn text(html: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for character in html.chars() {
        match character {
            '<' => is_tag = true,
            '>' => is_tag = false,
            other if !is_tag => text.push(other),
            _ => {}
        }
    }
    for (entity, character) in [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")] {
        text = text.replace(entity, character);
    }
    text.trim().to_owned()
}

/// The headline of the page is the availability of the document.
pub fn headline(page: &str, document: &Value) -> Option<String> {
    let (checks, failures) = (document["checks"].as_u64()?, document["failures"].as_u64()?);
    let thousandths = (checks - failures) * 100_000 / checks.max(1);
    let wanted = format!("{}.{:03} %", thousandths / 1000, thousandths % 1000);
    let shown = page.split("class=\"headline").nth(1)?.split_once('>')?.1.split('<').next()?.to_owned();
    (shown != wanted && !shown.ends_with("failures")).then(|| format!("page: headline {shown} instead of {wanted}"))
}
