//! Makes `data/instance-types.csv`:
//!
//!     cargo run --example instance-types -- FILE... > new.csv && mv new.csv data/instance-types.csv
//!
//! A FILE is the JSON of `aws ec2 describe-instance-types`, with as many pages and
//! regions as you like, one after another or in an array, or a CSV with at least
//! the table's columns, such as the table itself. The program recognizes the
//! format by the content. If the inputs disagree about a type, it reports an error and prints nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::{env, fs};

use serde::Deserialize;

/// The table's columns.
const COLUMNS: [&str; 4] = ["instance_type", "max_enis", "ipv4_per_eni", "network_mbps"];

/// The numbers of one type, in the order of the columns; `None` is unknown.
type Numbers = [Option<u32>; 3];

/// Rows with the file that each came from.
#[derive(Default)]
struct Table {
    rows: BTreeMap<String, (Numbers, String)>,
    conflicts: Vec<String>,
}

fn main() -> ExitCode {
    match make(env::args().skip(1)) {
        Ok((csv, left_out)) => {
            for name in left_out {
                eprintln!("instance-types: {name}: left out, its interfaces or addresses are not known");
            }
            print!("{csv}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("instance-types: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The table made of these files, and the types that it leaves out.
fn make(files: impl Iterator<Item = String>) -> Result<(String, Vec<String>), String> {
    let mut table = Table::default();
    let mut any = false;
    for file in files {
        any = true;
        let text = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        table.read(&file, &text).map_err(|e| format!("{file}: {e}"))?;
    }
    if !any {
        return Err("usage: instance-types FILE... (JSON of `aws ec2 describe-instance-types`, or CSV)".into());
    }
    table.finish()
}

impl Table {
    fn read(&mut self, file: &str, text: &str) -> Result<(), String> {
        let rows = if text.trim_start().starts_with(['{', '[']) { from_json(text)? } else { from_csv(text)? };
        if rows.is_empty() {
            return Err("no instance types in it".into());
        }
        for (name, numbers) in rows {
            self.add(file, name, numbers)?;
        }
        Ok(())
    }

    /// What one input knows and another does not is taken; what two say differently is a conflict.
    fn add(&mut self, file: &str, name: String, numbers: Numbers) -> Result<(), String> {
        let well_formed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if !name.contains('.') || !name.chars().all(well_formed) {
            return Err(format!("{name:?} is not an instance type"));
        }
        let Some((known, origin)) = self.rows.get_mut(&name) else {
            self.rows.insert(name, (numbers, file.to_owned()));
            return Ok(());
        };
        for ((column, old), new) in COLUMNS.iter().skip(1).zip(known).zip(numbers) {
            match (*old, new) {
                (Some(a), Some(b)) if a != b => {
                    self.conflicts.push(format!("{name}: {column} is {a} in {origin} and {b} in {file}"));
                }
                (None, Some(_)) => *old = new,
                _ => {}
            }
        }
        Ok(())
    }

    /// The CSV, sorted by name, without the types that have no interfaces or addresses.
    fn finish(self) -> Result<(String, Vec<String>), String> {
        if !self.conflicts.is_empty() {
            return Err(format!("the inputs disagree\n  {}", self.conflicts.join("\n  ")));
        }
        let mut csv = COLUMNS.join(",") + "\n";
        let mut left_out = Vec::new();
        for (name, (numbers, _)) in self.rows {
            match numbers {
                [Some(enis), Some(addresses), network] => {
                    let network = network.map(|n| n.to_string()).unwrap_or_default();
                    csv += &format!("{name},{enis},{addresses},{network}\n");
                }
                _ => left_out.push(name),
            }
        }
        Ok((csv, left_out))
    }
}

fn from_csv(text: &str) -> Result<Vec<(String, Numbers)>, String> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |name: &str| header.iter().position(|h| h == name).ok_or(format!("no column {name}"));
    let [name, enis, addresses, network] = COLUMNS.map(column);
    let (name, numbers) = (name?, [enis?, addresses?, network?]);
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| e.to_string())?;
        let cell = |column: usize| record.get(column).unwrap_or_default();
        let number = |column: usize| match cell(column) {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| format!("{}: {digits:?} is not a number", cell(name))),
        };
        let [enis, addresses, network] = numbers.map(number);
        rows.push((cell(name).to_owned(), [enis?, addresses?, network?]));
    }
    Ok(rows)
}

/// One page of DescribeInstanceTypes.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    instance_types: Vec<Type>,
}

/// InstanceTypeInfo; what is not needed is not read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Type {
    instance_type: String,
    network_info: Option<NetworkInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkInfo {
    maximum_network_interfaces: Option<u32>,
    ipv4_addresses_per_interface: Option<u32>,
    default_network_card_index: Option<u32>,
    #[serde(default)]
    network_cards: Vec<NetworkCard>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkCard {
    network_card_index: Option<u32>,
    maximum_network_interfaces: Option<u32>,
    baseline_bandwidth_in_gbps: Option<f64>,
}

/// One document or an array of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Page(Page),
    Pages(Vec<Page>),
}

fn from_json(text: &str) -> Result<Vec<(String, Numbers)>, String> {
    let mut rows = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Document>() {
        let pages = match document.map_err(|e| format!("not the JSON of `aws ec2 describe-instance-types`: {e}"))? {
            Document::Page(page) => vec![page],
            Document::Pages(pages) => pages,
        };
        let types = pages.into_iter().flat_map(|page| page.instance_types);
        rows.extend(types.map(|t| (t.instance_type, t.network_info.map(numbers).unwrap_or_default())));
    }
    Ok(rows)
}

/// A type with several network cards has that many interfaces in all; a node's own
/// and its containers' are on the default card, so that card alone counts.
fn numbers(network: NetworkInfo) -> Numbers {
    let default = network.default_network_card_index.unwrap_or(0);
    let card = network.network_cards.iter().find(|card| card.network_card_index.unwrap_or(0) == default);
    [
        card.and_then(|card| card.maximum_network_interfaces).or(network.maximum_network_interfaces),
        network.ipv4_addresses_per_interface,
        card.and_then(|card| card.baseline_bandwidth_in_gbps).and_then(mbps),
    ]
}

/// Gbit/s to whole Mbit/s, rounded down as the figures of EC2's documentation are.
fn mbps(gbps: f64) -> Option<u32> {
    // 0.07 * 1000 is 70.00000000000001, and 1.1 * 1000 is 1100.0000000000002;
    // the half of a thousandth takes up what binary fractions lack below.
    let mbps = (gbps * 1000.0 + 0.0005).floor();
    (1.0..f64::from(u32::MAX)).contains(&mbps).then_some(mbps as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(files: &[(&str, &str)]) -> Result<(String, Vec<String>), String> {
        let mut table = Table::default();
        for (file, text) in files {
            table.read(file, text)?;
        }
        table.finish()
    }

    const PAGE_1: &str = r#"{"InstanceTypes": [
        {"InstanceType": "r4.8xlarge", "NetworkInfo": {"MaximumNetworkInterfaces": 8, "Ipv4AddressesPerInterface": 30,
            "NetworkCards": [{"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 8, "BaselineBandwidthInGbps": 10.0}]}},
        {"InstanceType": "p4d.24xlarge", "NetworkInfo": {"MaximumNetworkInterfaces": 60, "Ipv4AddressesPerInterface": 50,
            "DefaultNetworkCardIndex": 0, "NetworkCards": [
                {"NetworkCardIndex": 1, "MaximumNetworkInterfaces": 15, "BaselineBandwidthInGbps": 100.0},
                {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 15, "BaselineBandwidthInGbps": 99.0}]}}],
        "NextToken": "x"}"#;
    const PAGE_2: &str = r#"{"InstanceTypes": [
        {"InstanceType": "m4.large", "NetworkInfo": {"MaximumNetworkInterfaces": 2, "Ipv4AddressesPerInterface": 10,
            "NetworkCards": [{"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 2, "BaselineBandwidthInGbps": 0.45}]}},
        {"InstanceType": "odd.large"}]}"#;
    const BOTH: &str = "instance_type,max_enis,ipv4_per_eni,network_mbps\nm4.large,2,10,450\np4d.24xlarge,15,50,99000\nr4.8xlarge,8,30,10000\n";

    #[test]
    fn pages_in_files_in_a_row_or_in_an_array_are_one_table() {
        let row = format!("{PAGE_1}\n{PAGE_2}");
        let array = format!("[{PAGE_2},{PAGE_1}]");
        for files in [
            &[("1", PAGE_1), ("2", PAGE_2)][..],
            &[("2", PAGE_2), ("1", PAGE_1)],
            &[("row", &row)],
            &[("array", &array)],
        ] {
            assert_eq!(table(files).unwrap(), (BOTH.to_owned(), vec!["odd.large".to_owned()]));
        }
    }

    #[test]
    fn csv_and_json_complete_each_other() {
        let csv = "network_mbps,arch,instance_type,max_enis,ipv4_per_eni\n,arm64,odd.large,3,4\n,x86_64,m4.large,2,\n";
        let (made, left_out) = table(&[("a.csv", csv), ("2", PAGE_2)]).unwrap();
        assert_eq!(made, "instance_type,max_enis,ipv4_per_eni,network_mbps\nm4.large,2,10,450\nodd.large,3,4,\n");
        assert_eq!(left_out, [""; 0]);
    }

    #[test]
    fn regions_that_disagree_are_refused() {
        let other = PAGE_2.replace("\"MaximumNetworkInterfaces\": 2", "\"MaximumNetworkInterfaces\": 3");
        let error = table(&[("eu.json", PAGE_2), ("us.json", &other)]).unwrap_err();
        assert!(error.contains("m4.large: max_enis is 2 in eu.json and 3 in us.json"), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        for bad in [
            "",
            "{}",
            "[]",
            "{\"Reservations\": []}",
            "a,b\n1,2\n",
            "<html>",
            "{\"InstanceTypes\": [}",
            "instance_type,max_enis,ipv4_per_eni,network_mbps\nm4.large,two,10,450\n",
            "instance_type,max_enis,ipv4_per_eni,network_mbps\nm4 large,2,10,450\n",
        ] {
            assert!(table(&[("file", bad)]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fractions_of_gigabits() {
        assert_eq!(mbps(0.07), Some(70));
        assert_eq!(mbps(0.45), Some(450));
        assert_eq!(mbps(1.1), Some(1100));
        assert_eq!(mbps(16.666), Some(16666));
        assert_eq!(mbps(4.6875), Some(4687));
        assert_eq!(mbps(f64::NAN), None);
        assert_eq!(mbps(-1.0), None);
    }

    #[test]
    fn the_committed_table_is_what_the_command_makes_of_it() {
        let committed = include_str!("../data/instance-types.csv");
        assert_eq!(table(&[("data/instance-types.csv", committed)]).unwrap().0, committed);
    }
}
