//! What a keyspace may be called: what a label of a DNS name may be, for it can stand in the name of a host.

use crate::limits::KEYSPACE_NAME_CHARACTERS_MAX as CHARACTERS_MAX;

/// A name that no keyspace can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot be the name of a keyspace: {why}; a name has 1 to {CHARACTERS_MAX} of the characters a-z, 0-9 \
     and -, and neither begins nor ends with -"
)]
pub struct NameError {
    /// The name.
    pub name: String,
    /// What of the rule it breaks.
    pub why: &'static str,
}

/// Whether a keyspace may have this name (RFC 1123, 2.1, in lower case).
pub fn check(name: &str) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let why = if name.is_empty() {
        "it is empty"
    } else if !name.chars().all(allowed) {
        "it has other characters"
    } else if name.len() > CHARACTERS_MAX {
        "it is too long"
    } else if name.starts_with('-') || name.ends_with('-') {
        "it begins or ends with -"
    } else if name == super::SYSTEM {
        "it is that of the cluster's own"
    } else {
        return Ok(());
    };
    // What is told of it ends somewhere, whatever was sent.
    let name = name.chars().take(2 * CHARACTERS_MAX).collect();
    Err(NameError { name, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_of_dns() {
        let longest = "a".repeat(63);
        for name in ["a", "0", "orders", "orders-2", "a--b", "default", &longest] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        let too_long = "a".repeat(64);
        for name in [
            "", "-a", "a-", "-", "Orders", "a_b", "a.b", "ä", "a b", "a/b", "system", &too_long,
        ] {
            let refused = check(name).expect_err(name).to_string();
            assert!(refused.contains("1 to 63"), "{refused}");
        }
    }
}
