//! Mesos resources of a Titus agent, `MESOS_RESOURCES`.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::secrets::shown;
use crate::titus::part::{Input, Part};
use crate::titus::{is_name, is_ranges};

/// Granularity of the memory offer, MiB. MemTotal differs by some MiB between
/// kernels, and a Mesos agent forgets its tasks when its resources change.
const MEM_STEP: u64 = 256;

/// Granularity of the disk offer, MiB, for the same reason.
const DISK_STEP: u64 = 1024;

/// Memory to offer, MiB: MemTotal without the reserve, rounded down to 256 MiB.
///
/// # Errors
/// Fails when nothing is left for tasks.
pub fn mem_mib(total: u64, reserve: u64) -> Result<u64> {
    round_offer("mem", "memory", total, reserve, MEM_STEP)
}

/// Disk to offer, MiB: the size of the file system of Docker's data root without
/// the reserve, rounded down to 1024 MiB.
///
/// # Errors
/// Fails when nothing is left for tasks.
pub fn disk_mib(total: u64, reserve: u64) -> Result<u64> {
    round_offer("disk", "disk", total, reserve, DISK_STEP)
}

fn round_offer(key: &str, what: &str, total: u64, reserve: u64, step: u64) -> Result<u64> {
    let rounded = total.saturating_sub(reserve) / step * step;
    if rounded > 0 {
        return Ok(rounded);
    }
    Err(Error::new(Kind::Unavailable, format!("no {what} is left for tasks"))
        .cause(format!(
            "this machine has {total} MiB, {reserve} MiB are kept for the node itself, \
             and the rest is offered in steps of {step} MiB"
        ))
        .fix(format!("use a larger machine, or set agent.reserve.{key} or agent.resources.{key}")))
}

/// Memory to offer, as a part of the resources, with the fact and the setting behind it.
///
/// # Errors
/// Fails for the reasons of [`mem_mib`].
pub fn mem(total_mib: u64, reserve_mib: u64) -> Result<Part> {
    let offered = mem_mib(total_mib, reserve_mib)?;
    Ok(offer_part("mem", offered, Input::new("instance.memory_mib", total_mib), reserve_mib, MEM_STEP))
}

/// Disk to offer, in the same form.
///
/// # Errors
/// Fails for the reasons of [`disk_mib`].
pub fn disk(total_mib: u64, reserve_mib: u64) -> Result<Part> {
    let offered = disk_mib(total_mib, reserve_mib)?;
    Ok(offer_part("disk", offered, Input::new("instance.disk_mib", total_mib), reserve_mib, DISK_STEP))
}

fn offer_part(name: &str, offered: u64, total: Input, reserve_mib: u64, step: u64) -> Part {
    let reserve = Input { word: "less", ..Input::new(format!("agent.reserve.{name}"), reserve_mib) };
    Part::new(name, offered).add_input(total).add_input(reserve).operation(format!("in steps of {step}"))
}

/// Formats `mem:6912;disk:20480;network:450`, in the given order, after checking names and values.
///
/// A value is what Mesos calls a scalar (`8000`, `1.5`), ranges (`[1-2,4-9]`) or a
/// set (`{a,b}`).
///
/// # Errors
/// Fails when a name or value has none of these forms, or when a name occurs twice.
pub fn resources(pairs: &[(String, String)]) -> Result<String> {
    let mut seen = BTreeSet::new();
    let mut entries = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        if !is_name(name) {
            return Err(Error::config(format!("{name:?} cannot be the name of a Mesos resource"))
                .fix("use letters, digits, '_', '.', '/' and '-'"));
        }
        if !seen.insert(name) {
            return Err(Error::config(format!("the Mesos resource {name} is given twice")));
        }
        if !(is_scalar(value) || is_ranges(value) || is_set(value)) {
            return Err(Error::config(format!("the Mesos resource {name} must not be {:?}", shown(name, value)))
                .fix("use a number such as 8000, ranges such as [1-2,4-9], or a set such as {a,b}"));
        }
        entries.push(format!("{name}:{value}"));
    }
    Ok(entries.join(";"))
}

/// Digits, at most 12, and at most three decimals: Mesos's precision.
fn is_scalar(text: &str) -> bool {
    let digits = |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, decimals)) => digits(whole, 12) && digits(decimals, 3),
        None => digits(text, 12),
    }
}

fn is_set(text: &str) -> bool {
    text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|inner| inner.split(',').all(is_name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_sample_machine() {
        assert_eq!(mem_mib(7982, 1024).unwrap(), 6912);
        assert_eq!(disk_mib(30720, 10240).unwrap(), 20480);
    }

    #[test]
    fn a_few_mib_more_or_less_change_nothing() {
        for total in 7950..8190 {
            assert_eq!(mem_mib(total, 1024).unwrap(), 6912);
        }
    }

    #[test]
    fn a_machine_that_is_too_small_is_refused() {
        for total in [0, 512, 1024, 1279] {
            let error = mem_mib(total, 1024).unwrap_err();
            assert_eq!(error.kind, Kind::Unavailable);
            assert!(error.fix.unwrap().contains("agent.reserve.mem"));
        }
        assert_eq!(mem_mib(1280, 1024).unwrap(), 256);
        assert!(disk_mib(8192, 10240).is_err());
    }

    #[test]
    fn the_line_of_the_proof_of_concept() {
        let pairs = [pair("mem", "8000"), pair("disk", "8000"), pair("network", "9000")];
        assert_eq!(resources(&pairs).unwrap(), "mem:8000;disk:8000;network:9000");
    }

    #[test]
    fn values_that_mesos_would_read_otherwise_are_refused() {
        for good in ["0", "8000", "1.5", "[1-2]", "{a,b}"] {
            assert!(resources(&[pair("x", good)]).is_ok(), "{good}");
        }
        for bad in
            ["", "-1", "+1", "1e3", "1.", ".5", "1.0000", "a", "8000;cpus:9", "8 000", "{}", "{a;b}", "[1]", "NaN"]
        {
            assert!(resources(&[pair("x", bad)]).is_err(), "{bad}");
        }
        assert!(resources(&[pair("a:b", "1")]).is_err());
        assert!(resources(&[pair("a", "1"), pair("a", "2")]).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(total: u64, reserve: u64) {
            if let Ok(offered) = mem_mib(total, reserve) {
                prop_assert!(offered <= total - reserve && offered.is_multiple_of(MEM_STEP));
            }
            if let Ok(offered) = disk_mib(total, reserve) {
                prop_assert!(offered <= total - reserve && offered.is_multiple_of(DISK_STEP));
            }
        }

        #[test]
        fn no_value_forges_a_resource(name in ".*", value in ".*") {
            if let Ok(line) = resources(&[(name, value)]) {
                prop_assert_eq!(line.matches([':', ';']).count(), 1);
            }
        }
    }
}
