//! EC2's numbers for each instance type that an agent needs.

/// `data/instance-types.csv`, sorted by name; data/README.md says where it comes from.
const TABLE: &str = include_str!("../../data/instance-types.csv");

/// The table's first line.
#[cfg(test)]
const HEADER: &str = "instance_type,max_enis,ipv4_per_eni,network_mbps";

/// One instance type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceType {
    /// Network interfaces of the default network card, including the node's own.
    pub max_enis: u32,
    /// IPv4 addresses of one interface, including its primary one.
    pub ipv4_per_eni: u32,
    /// Baseline bandwidth (not peak) of the default network card, in Mbit/s; absent if EC2 does not publish it.
    pub network_mbps: Option<u32>,
}

/// The numbers of a type in the table, or `None` for any other type. The program never guesses.
///
/// Searches the text itself, so that it parses only one row.
pub fn lookup(name: &str) -> Option<InstanceType> {
    let (_, mut rows) = TABLE.split_once('\n')?;
    while !rows.is_empty() {
        let middle = rows.len() / 2;
        let start = rows.bytes().take(middle).rposition(|b| b == b'\n').map_or(0, |newline| newline + 1);
        let end = rows.bytes().skip(start).position(|b| b == b'\n').map_or(rows.len(), |length| start + length + 1);
        let (known, numbers) = rows.get(start..end)?.trim_end().split_once(',')?;
        rows = match name.cmp(known) {
            std::cmp::Ordering::Equal => return parse(numbers),
            std::cmp::Ordering::Less => rows.get(..start)?,
            std::cmp::Ordering::Greater => rows.get(end..)?,
        };
    }
    None
}

/// All names in the table, sorted; for suggestions.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.lines().skip(1).filter_map(|row| row.split_once(',').map(|(name, _)| name))
}

/// Advice about a name that is not in the table, preceded by the most similar name.
pub fn add_suggestion(name: &str, advice: String) -> String {
    match crate::settings::nearest(name, names()) {
        Some(like) => format!("did you mean `{like}`? If not, {advice}"),
        None => advice,
    }
}

/// The family of a type: `m4` for `m4.large`.
pub fn family(name: &str) -> &str {
    name.split_once('.').map_or(name, |(family, _)| family)
}

/// Parses `max_enis,ipv4_per_eni,network_mbps`; an empty last cell means unknown.
fn parse(numbers: &str) -> Option<InstanceType> {
    let mut cells = numbers.split(',');
    Some(InstanceType {
        max_enis: cells.next()?.parse().ok()?,
        ipv4_per_eni: cells.next()?.parse().ok()?,
        network_mbps: cells.next()?.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(name: &str) -> (u32, u32, Option<u32>) {
        let t = lookup(name).unwrap();
        (t.max_enis, t.ipv4_per_eni, t.network_mbps)
    }

    #[test]
    fn types_that_were_checked_against_ec2() {
        assert_eq!(numbers("t2.large"), (3, 12, Some(512)));
        assert_eq!(numbers("m4.large"), (2, 10, Some(450)));
        assert_eq!(numbers("m5.large").0, 3);
        assert_eq!(numbers("r4.8xlarge").0, 8);
        assert_eq!(numbers("m5.24xlarge").1, 50);
        assert_eq!(numbers("c5.18xlarge"), (15, 50, Some(25000)));
        assert_eq!(numbers("cc2.8xlarge"), (8, 30, None));
    }

    #[test]
    fn every_row_is_found_and_whole() {
        assert_eq!(TABLE.lines().next(), Some(HEADER));
        let mut previous = "";
        let mut count = 0;
        for row in TABLE.lines().skip(1) {
            let (name, rest) = row.split_once(',').unwrap();
            assert!(previous < name, "{previous} comes before {name}");
            previous = name;
            let t = lookup(name).unwrap_or_else(|| panic!("{name} is in the table and is not found"));
            let network = t.network_mbps.map(|n| n.to_string()).unwrap_or_default();
            assert_eq!(rest, format!("{},{},{network}", t.max_enis, t.ipv4_per_eni), "{name}");
            assert!(t.max_enis > 0 && t.ipv4_per_eni > 0, "{name}");
            count += 1;
        }
        assert!(count > 1300, "only {count} types");
        assert_eq!(names().count(), count);
    }

    #[test]
    fn what_is_not_there_is_not_guessed() {
        for name in
            ["", "m4", "m4.", "m4.larg", "m4.large,", "M4.LARGE", "m9.large", "zzz.large", "\n", "instance_type"]
        {
            assert_eq!(lookup(name), None, "{name:?}");
        }
    }

    #[test]
    fn family_is_what_stands_before_the_dot() {
        assert_eq!(family("m4.large"), "m4");
        assert_eq!(family("u-6tb1.112xlarge"), "u-6tb1");
        assert_eq!(family("odd"), "odd");
    }

    proptest! {
        #[test]
        fn any_name_is_answered(name in ".*") {
            prop_assert_eq!(lookup(&name).is_some(), names().any(|known| known == name));
            family(&name);
        }
    }
}
