//! Which instances of a tag are servers, and in which order. The order numbers the servers of ZooKeeper.

use crate::error::{Error, Result};
use crate::facts::Peer;
use crate::settings::Settings;

pub use crate::settings::tags::ID_TAG;

/// The tag with an instance's stack. An instance without it belongs to the default stack.
const STACK_TAG: &str = "titus:stack";

/// The instances of a stack.
///
/// # Errors
/// Fails when the built-in settings are not valid; a test makes sure that they are.
pub fn filter_stack(peers: Vec<Peer>, stack: &str) -> Result<Vec<Peer>> {
    let default = Settings::built_in()?.stack.to_string();
    let is_ours = |peer: &Peer| peer.tags.get(STACK_TAG).unwrap_or(&default) == stack;
    Ok(peers.into_iter().filter(is_ours).collect())
}

/// Sorts instances in the order of the servers: those with a tag [`ID_TAG`] at the position it gives, the others, by launch
/// time, at the remaining positions.
///
/// # Errors
/// Fails when a tag is not a valid number, or when two instances have the same number or address.
pub fn sort_servers(mut peers: Vec<Peer>) -> Result<Vec<Peer>> {
    let wrong = |peer: &Peer, cause: String| {
        Error::config(format!("instance {}: its tag {ID_TAG} cannot be used", peer.id)).cause(cause).fix(format!(
            "give each server its own number, from 1: aws ec2 create-tags --resources {} --tags Key={ID_TAG},Value=N",
            peer.id
        ))
    };
    for (n, peer) in peers.iter().enumerate() {
        if let Some(other) = peers.iter().take(n).find(|other| other.address == peer.address) {
            return Err(Error::config(format!("instances {} and {} have the same address", other.id, peer.id))
                .cause(format!("both are at {}, and each server needs its own node", peer.address))
                .fix("remove the tag that identifies servers from the wrong instance"));
        }
    }
    peers.sort_by(|a, b| (&a.launched, &a.id).cmp(&(&b.launched, &b.id)));
    let count = peers.len();
    let mut places: Vec<Option<Peer>> = (0..count).map(|_| None).collect();
    let (tagged, others): (Vec<Peer>, Vec<Peer>) = peers.into_iter().partition(|peer| peer.tags.contains_key(ID_TAG));
    for peer in tagged {
        let value = peer.tags.get(ID_TAG).map(|value| value.trim().to_owned()).unwrap_or_default();
        let place = value.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        let Some(place) = place.and_then(|place| places.get_mut(place)) else {
            return Err(wrong(&peer, format!("it is {value:?}, but there are {count} servers")));
        };
        if let Some(other) = place {
            return Err(wrong(&peer, format!("it is {value:?}, which {} also has", other.id)));
        }
        *place = Some(peer);
    }
    let mut others = others.into_iter();
    Ok(places.into_iter().filter_map(|place| place.or_else(|| others.next())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, launched: &str, tags: &[(&str, &str)]) -> Peer {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Peer { id: id.into(), address: format!("10.0.0.{}", &id[2..]), launched: launched.into(), tags }
    }

    fn ids(peers: &[Peer]) -> Vec<&str> {
        peers.iter().map(|peer| peer.id.as_str()).collect()
    }

    #[test]
    fn launches_number_the_servers_and_tags_win() {
        let (a, b, c) = ("2018-05-01T10:00:00.000Z", "2018-05-01T10:00:01.000Z", "2018-05-02T09:00:00.000Z");
        let by_launch = vec![peer("i-3", c, &[]), peer("i-2", a, &[]), peer("i-1", a, &[])];
        assert_eq!(ids(&sort_servers(by_launch).unwrap()), ["i-1", "i-2", "i-3"]);
        let replaced = vec![peer("i-9", c, &[(ID_TAG, "1")]), peer("i-2", a, &[]), peer("i-3", b, &[(ID_TAG, "3")])];
        assert_eq!(ids(&sort_servers(replaced).unwrap()), ["i-9", "i-2", "i-3"]);
        assert!(sort_servers(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn one_address_is_not_two_servers() {
        let moved = Peer { address: "10.0.0.1".into(), ..peer("i-2", "b", &[]) };
        let error = sort_servers(vec![peer("i-1", "a", &[]), moved, peer("i-3", "c", &[])]).unwrap_err();
        assert_eq!(error.kind, crate::error::Kind::Config);
        let message = error.to_string();
        assert!(message.contains("i-1 and i-2 have the same address") && message.contains("10.0.0.1"), "{message}");
    }

    #[test]
    fn a_number_that_is_no_place_is_refused() {
        for (one, other) in [("1", "1"), ("0", "1"), ("3", "1"), ("", "1"), ("-1", "2"), ("one", "2")] {
            let peers = vec![peer("i-1", "a", &[(ID_TAG, one)]), peer("i-2", "b", &[(ID_TAG, other)])];
            let message = sort_servers(peers).unwrap_err().to_string();
            assert!(
                message.contains("its tag titus:zookeeper-id cannot be used") && message.contains("create-tags"),
                "{message}"
            );
        }
    }

    #[test]
    fn an_untagged_instance_is_of_the_default_stack() {
        let peers = vec![
            peer("i-1", "", &[]),
            peer("i-2", "", &[(STACK_TAG, "blue")]),
            peer("i-3", "", &[(STACK_TAG, "mainvpc")]),
        ];
        assert_eq!(Settings::built_in().unwrap().stack, "mainvpc");
        assert_eq!(ids(&filter_stack(peers.clone(), "mainvpc").unwrap()), ["i-1", "i-3"]);
        assert_eq!(ids(&filter_stack(peers, "blue").unwrap()), ["i-2"]);
    }
}
