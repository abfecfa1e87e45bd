//! The JSON forms of what a node knows: amounts of 64 bits as decimal text with the unit in the name, keys and hashes
//! in lower-case hex. The API sends them and the command line prints them unchanged.
//= interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it

use fairshare_ledger::{ForkKind, ForkProof, HalfBlock};
use serde_json::{Value as Json, json};

/// A half block; every field of bytes in hex.
pub(crate) fn block(block: &HalfBlock) -> Json {
    json!({
        "type": block.kind.to_string(),
        "transaction": hex::encode(&block.transaction),
        "public_key": block.owner.to_string(),
        "sequence_number": block.sequence,
        "link_public_key": block.link_owner.to_string(),
        "link_sequence_number": block.link_sequence,
        "previous_hash": block.previous_hash.to_string(),
        "signature": hex::encode(block.signature.0),
        "timestamp": block.timestamp_ms,
        "hash": block.hash().to_string(),
    })
}

/// A proof that a key signed twice what it may sign once.
pub(crate) fn proof(proof: &ForkProof) -> Json {
    let kind = match proof.kind() {
        ForkKind::DoubleSign => "double-sign",
        ForkKind::DoubleCountersign => "double-countersign",
    };
    json!({
        "kind": kind,
        "accused": proof.accused().to_string(),
        "blocks": [block(proof.first()), block(proof.second())],
    })
}

/// A 64-bit amount as text: bytes and tokens do not fit the numbers of a page.
pub(crate) fn amount(value: impl ToString) -> Json {
    Json::String(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fairshare_crypto::{Rng, SecretKey};
    use fairshare_ledger::{BlockType, Draft, GENESIS_HASH};

    #[test]
    fn a_block_has_exactly_the_fields_that_scripts_rely_on() {
        let mut rng = Rng::from_seed([1; 32]);
        let (alice, bob) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let draft = Draft {
            sequence: 1,
            link_owner: bob.public(),
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::from("test"),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 5,
        };
        let json = block(&HalfBlock::sign(&alice, draft));
        let mut names: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
        names.sort();
        assert_eq!(
            names,
            [
                "hash",
                "link_public_key",
                "link_sequence_number",
                "previous_hash",
                "public_key",
                "sequence_number",
                "signature",
                "timestamp",
                "transaction",
                "type"
            ]
        );
        assert_eq!(json["transaction"], "613064");
        assert_eq!(json["public_key"], alice.public().to_string());
        assert_eq!(json["previous_hash"], "30".repeat(32));
    }
}
